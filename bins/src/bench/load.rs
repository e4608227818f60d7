//! Closed loops: everybody asks again when answered.

use super::figures::Times;
use crate::processes::Broken;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What a load came to.
#[derive(Debug)]
pub(super) struct Loaded {
    /// From asking to the answer, of each.
    pub times: Times,
    /// All of it, to the last answer.
    pub took: Duration,
}

impl Loaded {
    pub fn per_second(&self) -> f64 {
        self.times.count() as f64 / self.took.as_secs_f64()
    }
}

/// Each caller does its one thing over and over until `time` has passed; what is under way then is waited for, and counts.
pub(super) async fn closed_loop<F, Fut>(callers: impl IntoIterator<Item = F>, time: Duration) -> Result<Loaded, Broken>
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), Broken>> + Send,
{
    let begun = Instant::now();
    let end = begun + time;
    let mut running = JoinSet::new();
    for mut once in callers {
        running.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let started = Instant::now();
                once().await?;
                times.push(started.elapsed());
            }
            Ok::<_, Broken>(times)
        });
    }
    let all = everybody(running).await?;
    Ok(Loaded { took: begun.elapsed(), times: Times::of(all.into_iter().flatten().collect()) })
}

/// Waits for all tasks, and returns what they do, in no order.
pub(super) async fn everybody<T: 'static>(mut running: JoinSet<Result<T, Broken>>) -> Result<Vec<T>, Broken> {
    let mut all = Vec::new();
    while let Some(done) = running.join_next().await {
        all.push(done.map_err(|error| Broken(error.to_string()))??);
    }
    Ok(all)
}

/// How many clients there are, and how many callers share each.
pub(super) fn tasks_each(clients: usize, handles: Option<usize>) -> Result<(usize, usize), String> {
    let handles = handles.unwrap_or(clients);
    if handles == 0 || !clients.is_multiple_of(handles) {
        return Err(format!("{clients} callers cannot share {handles} clients evenly"));
    }
    Ok((handles, clients / handles))
}

/// A number on a command line that must be at least 1.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_share_clients_evenly_or_not_at_all() {
        assert_eq!(tasks_each(64, None).expect("a client each"), (64, 1));
        assert_eq!(tasks_each(256, Some(4)).expect("it divides"), (4, 64));
        assert!(tasks_each(16, Some(5)).is_err() && tasks_each(4, Some(16)).is_err());
    }
}
