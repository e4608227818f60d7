//! Three replicas survive any two faults, one after the other or at once, in every order, whoever leads, crashed and
//! stopped, and take the others back. The story itself is `chat-demo two-faults`.

#[path = "support/script.rs"]
mod script;

use script::passes;

#[test]
fn two_of_three_are_killed() {
    passes("two-faults-killed", &[], &["two-faults", "--fault", "kill"]);
}

#[test]
fn two_of_three_are_stopped() {
    passes("two-faults-stopped", &[], &["two-faults", "--fault", "term"]);
}
