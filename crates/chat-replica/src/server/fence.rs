//! Rule 8: an operator's program that makes sure of a crash.

use crate::handle::Control;
use crate::protocol::{Member, ReplicaId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Asks the operator's command about each suspected primary, one after the other.
pub(super) async fn fence(
    command: String,
    replicas: Vec<(ReplicaId, String)>,
    mut suspects: mpsc::Receiver<Member>,
    control: mpsc::Sender<Control>,
    shutdown: CancellationToken,
) {
    let ask = async {
        while let Some(member) = suspects.recv().await {
            let address = replicas.iter().find(|(id, _)| *id == member.id).map(|(_, at)| at.as_str());
            let status = tokio::process::Command::new("sh")
                .args(["-c", &command])
                .env("CHATD_FENCE_ID", member.id.to_string())
                .env("CHATD_FENCE_ADDRESS", address.unwrap_or_default())
                .stdin(std::process::Stdio::null())
                .kill_on_drop(true)
                .status()
                .await;
            match status {
                Ok(status) if status.success() => drop(control.send(Control::Fenced(member)).await),
                Ok(status) => tracing::warn!(%member, %status, "the fencing command does not vouch for the crash"),
                Err(error) => tracing::warn!(%member, %error, "the fencing command could not be run"),
            }
        }
    };
    tokio::select! {
        () = ask => {}
        () = shutdown.cancelled() => {}
    }
}
