//! The command line of `chatd`, its environment, and its configuration file: in that order of weight.

use crate::secret;
use chat_replica::options::{Config, CrashProof, Listen, Options};
use clap::{Parser, ValueEnum};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One replica of the chat service.
///
/// Started on empty data directories with the same --cluster list, replicas found a cluster once all have met. Later the list only
/// says where to look. SIGTERM and SIGINT leave the cluster's view, handing over first; kill -9 at any moment loses nothing.
#[derive(Debug, Parser)]
#[command(name = "chatd", version, after_help = EXIT_CODES)]
pub(super) struct Flags {
    /// This replica's number, from 1.
    #[arg(long, env = "CHATD_ID", value_name = "N")]
    id: Option<u32>,
    /// Where it listens, for clients and for the other replicas. Default: its address in --cluster.
    #[arg(long, env = "CHATD_LISTEN", value_name = "IP:PORT")]
    listen: Option<String>,
    /// Its data directory; made if it is not there.
    #[arg(long, env = "CHATD_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Every replica, this one among them: 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT.
    #[arg(long, env = "CHATD_CLUSTER", value_name = "LIST")]
    cluster: Option<String>,
    /// A TOML file with any of these settings, named as the flags are, with underscores.
    #[arg(long, env = "CHATD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long a silent primary is waited for, at most a little more; the same on all replicas. Default 1s.
    #[arg(long, env = "CHATD_LEASE", value_name = "TIME")]
    lease: Option<String>,
    /// How often replicas ask each other for leases. Default 250ms.
    #[arg(long, env = "CHATD_PING_INTERVAL", value_name = "TIME")]
    ping_interval: Option<String>,
    /// After how much silence a replica counts as not heard. Default 750ms.
    #[arg(long, env = "CHATD_SUSPECT_AFTER", value_name = "TIME")]
    suspect_after: Option<String>,
    /// A disk that does not answer for so long costs its replica its place in the view. Default 2s.
    #[arg(long, env = "CHATD_STALL_LIMIT", value_name = "TIME")]
    stall_limit: Option<String>,
    /// Whether refused connections prove that a replica crashed. `never` where a firewall (REJECT), NAT or proxy stands between
    /// the replicas.
    #[arg(long, env = "CHATD_CRASH_PROOF", value_enum)]
    crash_proof: Option<Proof>,
    /// On how many disks a message must be before it is acknowledged. Default 1: the last replica goes on alone.
    #[arg(long, env = "CHATD_MIN_COPIES", value_name = "N")]
    min_copies: Option<usize>,
    /// A shell command that makes sure that a suspected replica has stopped for good, and then exits with 0. It finds
    /// CHATD_FENCE_ID and CHATD_FENCE_ADDRESS in its environment.
    #[arg(long, env = "CHATD_FENCE_COMMAND", value_name = "COMMAND")]
    fence_command: Option<String>,
    /// A file with the cluster's secret, 16 to 1024 bytes, the same on all replicas: other replicas must know it, and so must
    /// operators for orders. It authenticates; it does not encrypt. Without: whoever reaches the port is believed.
    #[arg(long, env = "CHATD_CLUSTER_SECRET_FILE", value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,
    /// How long leaving may take at SIGTERM. Default 2s.
    #[arg(long, env = "CHATD_LEAVE_TIMEOUT", value_name = "TIME")]
    leave_timeout: Option<String>,
}

const EXIT_CODES: &str = "Exit codes: 0 stopped as told, 1 cannot start or go on (standard error says why), 2 usage.\n\
    Times: 250ms, 1.5s, 2m.";

#[derive(Clone, Copy, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Proof {
    /// They do.
    Refusal,
    /// They do not: a crashed replica is waited for as a silent one is.
    Never,
}

/// The configuration file: the same names, with underscores.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: Option<u32>,
    listen: Option<String>,
    data: Option<PathBuf>,
    cluster: Option<String>,
    lease: Option<String>,
    ping_interval: Option<String>,
    suspect_after: Option<String>,
    stall_limit: Option<String>,
    crash_proof: Option<Proof>,
    min_copies: Option<usize>,
    fence_command: Option<String>,
    cluster_secret_file: Option<PathBuf>,
    leave_timeout: Option<String>,
}

impl Flags {
    /// The configuration, or what is wrong with it in one sentence.
    pub fn into_config(self) -> Result<Config, String> {
        let file = match &self.config {
            None => File::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                toml::from_str(&text).map_err(|error| misread(path, &text, &error))?
            }
        };
        let id = self.id.or(file.id).ok_or("--id is missing")?;
        let data = self.data.or(file.data).ok_or("--data is missing")?;
        let list = self.cluster.or(file.cluster).ok_or("--cluster is missing")?;
        let replicas = parse_cluster(&list)?;
        let listen = match self.listen.or(file.listen) {
            Some(text) => parse_address(&text)?,
            None => {
                let own = replicas.iter().find(|(other, _)| *other == id);
                let (_, own) = own.ok_or_else(|| format!("replica {id} is not in --cluster {list}"))?;
                own.parse().map_err(|_| format!("{own:?} is not IP:PORT: say with --listen where to listen"))?
            }
        };
        let mut options = Options::default();
        set_time(&mut options.lease, "lease", self.lease.or(file.lease))?;
        set_time(&mut options.ping_interval, "ping-interval", self.ping_interval.or(file.ping_interval))?;
        set_time(&mut options.suspect_after, "suspect-after", self.suspect_after.or(file.suspect_after))?;
        set_time(&mut options.stall_limit, "stall-limit", self.stall_limit.or(file.stall_limit))?;
        set_time(&mut options.leave_timeout, "leave-timeout", self.leave_timeout.or(file.leave_timeout))?;
        options.crash_proof = match self.crash_proof.or(file.crash_proof) {
            Some(Proof::Never) => CrashProof::Never,
            Some(Proof::Refusal) | None => CrashProof::Refusal,
        };
        options.min_copies = self.min_copies.or(file.min_copies).unwrap_or(options.min_copies);
        options.fence_command = self.fence_command.or(file.fence_command);
        if let Some(path) = self.cluster_secret_file.or(file.cluster_secret_file) {
            options.cluster_secret = Some(secret::read(&path)?.into());
        }
        Ok(Config { id, listen: Listen::At(listen), data, replicas, options })
    }
}

/// What is wrong with the configuration file, and where, in one sentence.
fn misread(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let words: Vec<&str> = error.message().split_whitespace().collect();
    format!("{} line {line}: {}", path.display(), words.join(" "))
}

fn parse_cluster(list: &str) -> Result<Vec<(u32, String)>, String> {
    let replica = |item: &str| {
        let (id, address) = item.trim().split_once('=')?;
        Some((id.trim().parse().ok()?, address.trim().to_string()))
    };
    let parsed = list.split(',');
    let parsed = parsed.map(|item| replica(item).ok_or_else(|| format!("{item:?} in --cluster is not N=HOST:PORT")));
    let replicas: Vec<_> = parsed.collect::<Result<_, String>>()?;
    for (place, (id, address)) in replicas.iter().enumerate() {
        if let Some((other, _)) = replicas[..place].iter().find(|(other, at)| at == address && other != id) {
            return Err(format!("replicas {other} and {id} have the same address in --cluster, {address}"));
        }
    }
    Ok(replicas)
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("--listen {text:?} is not IP:PORT"))
}

fn set_time(time: &mut Duration, name: &str, text: Option<String>) -> Result<(), String> {
    let Some(text) = text else { return Ok(()) };
    let wrong = || format!("--{name} {text:?} is not a time from 1ms to 1h, such as 250ms, 1.5s or 2m");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let number: f64 = text[..split].parse().map_err(|_| wrong())?;
    let unit = match &text[split..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds = number * unit;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err(wrong());
    }
    *time = Duration::from_secs_f64(seconds);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let arguments = ["chatd"].iter().chain(arguments);
        Flags::try_parse_from(arguments).expect("the flags exist").into_config()
    }

    const LIST: &str = "1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103";

    #[test]
    fn a_replica_listens_at_its_address_in_the_list() {
        let config = config(&["--id", "2", "--data", "d", "--cluster", LIST, "--lease", "1.5s"]).expect("complete");
        assert!(matches!(config.listen, Listen::At(at) if at.to_string() == "127.0.0.1:7102"));
        assert_eq!(config.options.lease, Duration::from_millis(1500));
        assert_eq!(config.replicas.len(), 3);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arguments, names) in [
            (&["--data", "d", "--cluster", LIST][..], "--id"),
            (&["--id", "4", "--data", "d", "--cluster", LIST], "replica 4"),
            (&["--id", "1", "--data", "d", "--cluster", "1=a:1,x"], "\"x\""),
            (
                &["--id", "1", "--data", "d", "--cluster", "1=a:1,2=b:1, 3=a:1"],
                "replicas 1 and 3 have the same address",
            ),
            (&["--id", "1", "--data", "d", "--cluster", LIST, "--listen", "nowhere"], "nowhere"),
            (&["--id", "1", "--data", "d", "--cluster", LIST, "--lease", "fast"], "fast"),
            (&["--id", "1", "--data", "d", "--cluster", LIST, "--lease", "1e9h"], "1e9h"),
            (&["--id", "1", "--config", "/nonexistent/chatd.toml"], "/nonexistent/chatd.toml"),
            (
                &["--id", "1", "--data", "d", "--cluster", LIST, "--cluster-secret-file", "/nonexistent/s"],
                "/nonexistent/s",
            ),
        ] {
            let wrong = config(arguments).expect_err("it is wrong");
            assert!(wrong.contains(names), "{wrong:?} does not name {names:?}");
        }
    }

    #[test]
    fn a_flag_outweighs_the_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("chatd.toml");
        let text =
            format!("id = 1\ndata = 'd'\ncluster = '{LIST}'\nlease = '3s'\nmin_copies = 2\ncrash_proof = 'never'\n");
        std::fs::write(&path, text).expect("written");
        let config = config(&["--config", path.to_str().expect("UTF-8"), "--lease", "2s"]).expect("complete");
        assert_eq!(config.options.lease, Duration::from_secs(2));
        assert_eq!((config.options.min_copies, config.options.crash_proof), (2, CrashProof::Never));
    }

    #[test]
    fn a_mistake_in_the_file_is_one_sentence_with_its_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("chatd.toml");
        for (text, names) in [("id = 1\nidd = 1\n", "unknown field `idd`"), ("id = 1\ndata = \n", "string")] {
            std::fs::write(&path, text).expect("written");
            let wrong = config(&["--config", path.to_str().expect("UTF-8")]).expect_err("it is wrong");
            assert!(wrong.contains("chatd.toml line 2: ") && wrong.contains(names), "{wrong}");
            assert_eq!(wrong.lines().count(), 1, "{wrong}");
        }
    }
}
