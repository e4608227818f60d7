//! For how long this replica leads in one epoch.
//!
//! The gate changes with leases, and with what readers see. Thousands of streams must not wake for that, so one task watches it for all of
//! them and passes on only what they want to know.

use crate::handle::Gate;
use crate::protocol::Epoch;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How long the watching task may lag behind the gate. It is microseconds; a leadership that ends within them is never seen.
const LAG: Duration = Duration::from_millis(100);

/// Watches the gate.
#[derive(Debug)]
pub(super) struct Leadership {
    serving: watch::Receiver<Option<Epoch>>,
    _watcher: AbortOnDropHandle<()>,
}

impl Leadership {
    /// Watches from now on, on the current tokio runtime.
    pub fn watch(mut gate: watch::Receiver<Gate>) -> Leadership {
        let (sender, serving) = watch::channel(gate.borrow_and_update().serving);
        let watcher = async move {
            while gate.changed().await.is_ok() {
                let now = gate.borrow_and_update().serving;
                sender.send_if_modified(|before| std::mem::replace(before, now) != now);
            }
            // The driver has ended.
            sender.send_replace(None);
        };
        Leadership { serving, _watcher: AbortOnDropHandle::new(tokio::spawn(watcher)) }
    }

    /// The leadership in `epoch`, in which the gate has said that this replica serves; `None` if it is over already.
    pub async fn term(&self, epoch: Epoch) -> Option<Term> {
        let mut serving = self.serving.clone();
        let caught_up = async { serving.wait_for(|now| *now == Some(epoch)).await.is_ok() };
        let begun = tokio::time::timeout(LAG, caught_up).await.unwrap_or(false);
        begun.then_some(Term { epoch, serving })
    }
}

/// One leadership of this replica.
#[derive(Debug)]
pub(super) struct Term {
    epoch: Epoch,
    serving: watch::Receiver<Option<Epoch>>,
}

impl Term {
    /// The epoch in which it serves.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        *self.serving.borrow() != Some(self.epoch)
    }

    /// Waits for its end. Cancel safe.
    pub async fn over(&mut self) {
        // An error says that nobody watches any more: then it is over, too.
        let _ = self.serving.wait_for(|now| *now != Some(self.epoch)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ReplicaId;

    fn gate(round: Option<u64>) -> Gate {
        let serving = round.map(|round| Epoch { round, replica: ReplicaId(1) });
        Gate { serving, ..Gate::closed(0) }
    }

    #[tokio::test]
    async fn a_term_lasts_as_long_as_its_epoch_serves() {
        let (sender, receiver) = watch::channel(gate(None));
        let leadership = Leadership::watch(receiver);
        let first = Epoch { round: 1, replica: ReplicaId(1) };
        assert!(leadership.term(first).await.is_none());

        sender.send_replace(gate(Some(1)));
        let mut term = leadership.term(first).await.unwrap();
        sender.send_replace(Gate { visible: 7, ..gate(Some(1)) });
        assert!(!term.is_over());

        sender.send_replace(gate(Some(2)));
        term.over().await;
        assert!(term.is_over(), "another epoch is another term");
    }

    #[tokio::test]
    async fn a_term_ends_with_the_driver() {
        let (sender, receiver) = watch::channel(gate(Some(1)));
        let leadership = Leadership::watch(receiver);
        let mut term = leadership.term(Epoch { round: 1, replica: ReplicaId(1) }).await.unwrap();
        drop(sender);
        term.over().await;
        assert!(term.is_over());
    }
}
