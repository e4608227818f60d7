//! Carries out what the watcher asks of the replicas, one order after the other, and notices when one ends by itself.

use super::keyboard::Order;
use crate::processes::Broken;
use crate::processes::cluster::Cluster;
use crate::processes::replica::Fault;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

/// How often it is looked whether all replicas still run.
const LOOK: Duration = Duration::from_millis(200);
/// For all replicas to leave, one after the other, at the end.
const FAREWELL: Duration = Duration::from_secs(8);

/// Runs until `orders` closes; then every replica is stopped. `say` gets a line for each thing that happened.
pub(super) async fn operate(
    mut cluster: Cluster,
    mut orders: mpsc::UnboundedReceiver<Order>,
    say: mpsc::UnboundedSender<String>,
) {
    let mut look = interval(LOOK);
    loop {
        let done = tokio::select! {
            order = orders.recv() => match order {
                Some(order) => carry_out(&mut cluster, order).await,
                None => break,
            },
            _ = look.tick() => cluster.check().map(|()| String::new()),
        };
        let line = done.unwrap_or_else(|broken| broken.to_string());
        if !line.is_empty() {
            let _ = say.send(line);
        }
    }
    let farewell = async {
        for id in cluster.running() {
            let replica = cluster.replica(id)?;
            replica.resume()?;
            replica.down(Fault::Term).await?;
        }
        Ok::<_, Broken>(())
    };
    // Whatever is still there is killed when the cluster is dropped.
    if let Ok(Err(broken)) = timeout(FAREWELL, farewell).await {
        let _ = say.send(broken.to_string());
    }
}

async fn carry_out(cluster: &mut Cluster, order: Order) -> Result<String, Broken> {
    let order = match order {
        Order::Toggle(id) if cluster.replica(id)?.runs() => Order::Kill(id),
        Order::Toggle(id) => Order::Start(id),
        order => order,
    };
    Ok(match order {
        Order::Kill(id) => {
            cluster.replica(id)?.down(Fault::Kill).await?;
            format!("replica {id} was killed (SIGKILL)")
        }
        Order::Stop(id) => {
            let replica = cluster.replica(id)?;
            // A paused process would not hear of it.
            replica.resume()?;
            replica.down(Fault::Term).await?;
            format!("replica {id} was stopped (SIGTERM)")
        }
        Order::Start(id) => {
            cluster.start(id).await?;
            format!("replica {id} was started")
        }
        Order::Pause(id) => {
            cluster.replica(id)?.pause()?;
            format!("replica {id} is paused (SIGSTOP): silent, but not dead")
        }
        Order::Resume(id) => {
            cluster.replica(id)?.resume()?;
            format!("replica {id} goes on (SIGCONT)")
        }
        Order::What(line) => format!("{line:?} is not kill N, start N, stop N, pause N, resume N, status or quit"),
        // Not for the replicas.
        Order::Toggle(_) | Order::Status | Order::Quit => String::new(),
    })
}
