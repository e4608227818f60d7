//! Three replicas, and `chatctl` beside them.

use chat_bins::processes::replica::{Plan, Replica};
use serde_json::Value;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// How long anything that must come about may take before it counts as not happening.
pub const WAIT: Duration = Duration::from_secs(20);

/// Replicas 1, 2 and 3 on data of their own, which are kept unless the test says that it has passed.
pub struct Trio {
    pub folder: PathBuf,
    pub replicas: Vec<Replica>,
    /// Where clients run: words before a command.
    pub outside: Vec<String>,
}

impl Trio {
    /// In these places: addresses, and words before the program. Founded, as seen from `outside`.
    pub async fn start(name: &str, places: &[(SocketAddr, Vec<String>)], outside: Vec<String>) -> Trio {
        Trio::surrounded(name, places, outside, &[]).await
    }

    /// The same, of replicas that find this in their environment.
    pub async fn surrounded(
        name: &str,
        places: &[(SocketAddr, Vec<String>)],
        outside: Vec<String>,
        environment: &[(String, OsString)],
    ) -> Trio {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let book: Vec<_> = (1..).zip(places).map(|(id, (address, _)): (u32, _)| format!("{id}={address}")).collect();
        let replica = |(id, (address, through)): (u32, &(SocketAddr, Vec<String>))| {
            Replica::new(Plan {
                program: env!("CARGO_BIN_EXE_chat-demo").into(),
                through: through.clone(),
                id,
                address: *address,
                book: book.join(","),
                folder: folder.clone(),
                voice: None,
            })
        };
        let mut trio = Trio { folder: folder.clone(), replicas: (1..).zip(places).map(replica).collect(), outside };
        for replica in &mut trio.replicas {
            replica.surround(environment.to_vec());
            replica.launch().expect("it starts");
        }
        for replica in &mut trio.replicas {
            replica.ready().await.expect("it gets ready");
        }
        let count = places.len();
        let founded = |line: &Value| {
            line["role"] == "primary" && line["in_view"].as_array().is_some_and(|ids| ids.len() == count)
        };
        trio.until("the cluster is founded", founded).await;
        trio
    }

    pub fn replica(&mut self, id: usize) -> &mut Replica {
        &mut self.replicas[id - 1]
    }

    pub fn servers(&self) -> String {
        self.replicas.iter().map(|replica| replica.address().to_string()).collect::<Vec<_>>().join(",")
    }

    /// What `chatctl` says on standard output, from outside.
    pub async fn chatctl(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.operate(arguments).await.stdout).expect("UTF-8")
    }

    /// All that `chatctl` says, from outside, and how it ends.
    pub async fn operate(&self, arguments: &[&str]) -> Output {
        let program = [env!("CARGO_BIN_EXE_chatctl").to_owned()];
        let mut words = self.outside.iter().chain(&program);
        let mut command = Command::new(words.next().expect("at least the program"));
        command.args(words).args(["--servers", &self.servers()]).args(arguments);
        command.output().await.expect("chatctl starts")
    }

    /// Looks at `chatctl status` until one replica's line is so, and returns that line.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.chatctl(&["status", "--json"]).await;
            let lines = status.lines().map(|line| serde_json::from_str(line).expect("JSON"));
            if let Some(line) = lines.into_iter().find(|line| is_so(line)) {
                return line;
            }
            let folder = self.folder.display();
            assert!(
                begun.elapsed() < WAIT,
                "after {WAIT:?} it is not so that {what}; data and logs are in {folder}:\n{status}"
            );
        }
    }

    /// Nothing needs to be kept.
    pub fn passed(self) {
        drop(self.replicas);
        // A replica that was just killed may still hold a file open, but no name.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
