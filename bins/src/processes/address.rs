//! Loopback addresses that nobody else has.

use super::broken::Broken;
use rand::RngExt as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the range from which the system takes ports for outgoing connections, so none of those can be in the way.
const PORT: u16 = 7100;

/// A random address of 127.0.0.0/8 at which nobody listens. There are 16 million, so it stays free until a replica takes
/// it, and while that replica is down.
///
/// # Errors
/// If none is found.
pub fn free() -> Result<SocketAddr, Broken> {
    let mut random = rand::rng();
    for _ in 0..100 {
        let [b, c] = random.random::<[u8; 2]>();
        let ip = Ipv4Addr::new(127, 1 + b % 250, c, random.random_range(1..=250));
        let address = SocketAddr::from((ip, PORT));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(Broken(format!("no address of 127.0.0.0/8 is free at port {PORT}")))
}
