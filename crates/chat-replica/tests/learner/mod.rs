//! A learner to whom no more of the log comes.

use crate::nobody::Nobody;
use chat_replica::node::{Disk, Node};
use chat_replica::protocol::Time;
use std::fmt::Debug;
use std::time::Duration;

/// Carries out what it has. It heard the last of it at `now`.
pub fn carry_out<D: Disk<Error: Debug>>(node: &mut Node<D>, now: Time) {
    let now = now.after(Duration::from_millis(50));
    let mut turn = || {
        node.turn(now, [], &|| now, &mut Nobody).expect("the disk works");
        node.is_behind()
    };
    while turn() {}
}
