//! Machines in miniature: network namespaces with addresses of their own, joined by a bridge.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// What all names that this makes begin with; then the process id, so that what a killed process left can be told.
const PREFIX: &str = "chat-test-";
const PORT: u16 = 7100;

/// Namespaces for replicas 1 to 3 and for a client, which is the fourth. Gone when dropped. The addresses exist only
/// within them.
pub struct Namespaces {
    prefix: String,
}

impl Namespaces {
    /// Or why they cannot be had here.
    pub fn make() -> Result<Namespaces, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let made = Namespaces { prefix: format!("{PREFIX}{}-{count}-", std::process::id()) };
        let hub = made.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        for number in 1..=4 {
            let (name, port) = (made.name(number), port(number));
            let address = format!("{}/24", ip_of(number));
            ip(&["netns", "add", &name])?;
            ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "bridge"])?;
            ip(&["-n", &hub, "link", "set", &port, "up"])?;
            ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        }
        Ok(made)
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    /// The namespace of a replica, or of the client.
    pub fn name(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }

    /// Where the client is.
    pub fn outside(&self) -> String {
        self.name(4)
    }

    /// Words before a command, which then runs in that namespace.
    pub fn inside(name: &str) -> Vec<String> {
        ["ip", "netns", "exec", name].map(str::to_owned).to_vec()
    }

    pub fn address(number: u32) -> SocketAddr {
        (ip_of(number), PORT).into()
    }

    /// From now on nothing reaches it and nothing comes from it, and nobody is told: silence, not refusal.
    pub fn cut(&self, number: u32) {
        ip(&["-n", &self.hub(), "link", "set", &port(number), "down"]).expect("its cable is pulled");
    }

    /// It is reached again.
    pub fn join(&self, number: u32) {
        ip(&["-n", &self.hub(), "link", "set", &port(number), "up"]).expect("its cable is plugged in");
    }
}

/// Packet filters, by `nft`. They filter what comes in, so each end of a link has its own.
impl Namespaces {
    /// Or why there are none.
    pub fn rules_usable(&self) -> Result<(), String> {
        self.filter(1, &[]).map(|()| self.no_rules())
    }

    /// Every packet between the two is answered by a reset, in the name of the other: connections break, dials are refused.
    pub fn reject(&self, a: u32, b: u32) {
        self.rule(a, b, "reject with tcp reset");
        self.rule(b, a, "reject with tcp reset");
    }

    /// Nothing that `from` says reaches `to`, and nobody is told.
    pub fn drop_from(&self, from: u32, to: u32) {
        self.rule(to, from, "drop");
    }

    /// No rules any more.
    pub fn no_rules(&self) {
        for number in 1..=3 {
            // There may have been none.
            let _ = self.nft(number, &["delete", "table", "inet", "chat"]);
        }
    }

    fn rule(&self, at: u32, from: u32, verdict: &str) {
        let from = ip_of(from).to_string();
        let words: Vec<&str> =
            ["ip", "saddr", &from, "ip", "protocol", "tcp"].into_iter().chain(verdict.split(' ')).collect();
        self.filter(at, &words).expect("a rule is made");
    }

    fn filter(&self, at: u32, rule: &[&str]) -> Result<(), String> {
        self.nft(at, &["add", "table", "inet", "chat"])?;
        let hook = "{ type filter hook input priority 0; }";
        self.nft(at, &["add", "chain", "inet", "chat", "input", hook])?;
        if rule.is_empty() { Ok(()) } else { self.nft(at, &[&["add", "rule", "inet", "chat", "input"], rule].concat()) }
    }

    fn nft(&self, at: u32, arguments: &[&str]) -> Result<(), String> {
        let name = self.name(at);
        ip(&[&["netns", "exec", &name, "nft"], arguments].concat())
    }

    /// What the replica sends passes through this queueing discipline of `tc`.
    pub fn shape(&self, number: u32, discipline: &[&str]) -> Result<(), String> {
        let name = self.name(number);
        ip(&[&["netns", "exec", &name, "tc", "qdisc", "add", "dev", "eth0", "root"], discipline].concat())
    }

    pub fn unshape(&self, number: u32) {
        let name = self.name(number);
        ip(&["netns", "exec", &name, "tc", "qdisc", "delete", "dev", "eth0", "root"]).expect("it was shaped");
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in existing().iter().filter(|name| name.starts_with(&self.prefix)) {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn port(number: u32) -> String {
    format!("port{number}")
}

fn ip_of(number: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, number as u8)
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

fn existing() -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes what a test left whose process was killed.
fn sweep() {
    for name in existing() {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}
