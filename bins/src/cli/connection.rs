//! The flags that every command has: where the cluster is, and how long to wait for it.

use std::time::Duration;

use chat_client::{Builder, Client};
use clap::Args;
use jiff::SignedDuration;

use super::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct Connection {
    /// Addresses of replicas, host:port, separated by commas; one that lives is enough
    #[arg(long, global = true, env = "CHAT_SERVERS", value_delimiter = ',', value_name = "ADDRESSES")]
    servers: Vec<String>,

    /// How long to wait for a leader and its answer, such as 10s, 500ms or 2m
    #[arg(long, global = true, env = "CHAT_TIMEOUT", default_value = "10s", value_parser = duration)]
    timeout: Duration,
}

impl Connection {
    /// The addresses, in an order that does not depend on how they were given.
    pub(super) fn servers(&self) -> Result<Vec<String>, Failure> {
        let trimmed = self.servers.iter().map(|server| server.trim().to_owned());
        let mut servers: Vec<_> = trimmed.filter(|server| !server.is_empty()).collect();
        servers.sort_unstable();
        servers.dedup();
        if servers.is_empty() {
            let message = "no server was given: use --servers host:port,… or CHAT_SERVERS";
            return Err(Failure::Usage(message.to_owned()));
        }
        Ok(servers)
    }

    /// A client that has not connected yet.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(self.builder()?.connect_lazy()?)
    }

    /// For a client that needs more than these flags.
    pub(super) fn builder(&self) -> Result<Builder, Failure> {
        Ok(Client::builder().servers(self.servers()?).timeout(self.timeout))
    }
}

/// `10s`, `1m 30s`, `500ms`; a bare number is in seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok()),
    };
    // A deadline further away than this cannot be told from a mistake, and overflows some clocks.
    let most = Duration::from_secs(24 * 3600);
    match parsed {
        Some(duration) if !duration.is_zero() && duration <= most => Ok(duration),
        Some(_) => Err("must be above 0 and at most 24h".to_owned()),
        None => Err("not a duration such as 10s, 500ms or 2m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "soon", "-1s", "0", "0s", "NaN", "1e300", "48h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
