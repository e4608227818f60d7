//! Loopback addresses that nobody else has.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the range from which the system takes ports for outgoing connections, so none of those can be in the way.
const PORT: u16 = 7100;

/// A listener on a random address of 127.0.0.0/8: 16 million addresses, so that a crashed replica's stays free until it is restarted.
pub(crate) fn claim() -> TcpListener {
    for _ in 0..100 {
        let mut random = [0; 3];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        let ip = Ipv4Addr::new(127, 1 + random[0] % 250, random[1], 1 + random[2] % 250);
        if let Ok(listener) = TcpListener::bind(SocketAddr::from((ip, PORT))) {
            return listener;
        }
    }
    panic!("no free address in 127.0.0.0/8 at port {PORT}, after 100 tries");
}

/// A listener where a replica listened before.
pub(crate) fn reclaim(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).unwrap_or_else(|error| panic!("{address} is not free any more: {error}"))
}
