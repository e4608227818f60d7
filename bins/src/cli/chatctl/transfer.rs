//! `chatctl transfer`: another replica is to lead.

use std::io::{self, Write};

use chat_client::{Client, ReplicaStatus, Role, Transferred};
use serde::Serialize;

use crate::cli::{
    failure::{Failure, complain},
    output::{json, one_line},
};

use super::{EpochValue, ids, none_reached};

/// Has the leader hand over to replica `id`, and says who leads then.
pub(super) async fn transfer(client: &Client, id: u32, as_json: bool) -> Result<(), Failure> {
    let replicas = client.status_of_all().await;
    if replicas.iter().all(|replica| replica.role == Role::Unreachable) {
        return Err(none_reached(&replicas));
    }
    if let Some(obstacle) = obstacle(&replicas, id) {
        complain("chatctl", &obstacle);
        return Err(Failure::Told(1));
    }
    let done = client.transfer(id).await?;
    show(&mut io::stdout().lock(), &done, as_json)?;
    Ok(())
}

/// Why replica `id` cannot take over, as far as the replicas' own accounts tell. The leader may know more.
fn obstacle(replicas: &[ReplicaStatus], id: u32) -> Option<String> {
    let Some(named) = replicas.iter().find(|replica| replica.id == Some(id)) else {
        let known: Vec<_> = replicas.iter().filter_map(|replica| replica.id).collect();
        return Some(format!("there is no replica {id}: the cluster has {}", ids(&known)));
    };
    let ReplicaStatus { address, role, why, .. } = named;
    if *role == Role::Unreachable {
        return Some(format!("replica {id} cannot take over: {address} does not answer ({why})"));
    }
    let primaries = replicas.iter().filter(|replica| replica.role == Role::Primary);
    let view = &primaries.max_by_key(|replica| replica.epoch)?.in_view;
    let there = ids(view);
    (!view.contains(&id)).then(|| format!("replica {id} ({role}) cannot take over: it is not in the view ({there})"))
}

/// Who leads, for programs: what `status` says of it, and who led before.
#[derive(Debug, Serialize)]
struct TransferLine<'a> {
    id: u32,
    address: &'a str,
    role: String,
    epoch: EpochValue,
    leader: u32,
    /// Null: it led already.
    from: Option<u32>,
}

fn show(out: &mut impl Write, done: &Transferred, as_json: bool) -> io::Result<()> {
    let leader = &done.leader;
    if as_json {
        let (id, role) = (leader.id, Role::Primary.to_string());
        let (address, epoch) = (leader.address.as_str(), leader.epoch.into());
        return json(out, &TransferLine { id, address, role, epoch, leader: id, from: done.from });
    }
    let (id, address, epoch) = (leader.id, one_line(&leader.address), leader.epoch);
    match done.from {
        Some(from) => {
            writeln!(out, "replica {from} has handed over: replica {id} at {address} leads, in epoch {epoch}")
        }
        None => writeln!(out, "replica {id} at {address} leads already, in epoch {epoch}"),
    }
}
