//! Three replicas and a client with a network of their own each: the two-faults story, replicas cut off by silence and by lying
//! refusals, one way only, and slow or lossy links. Where namespaces or rules cannot be made, these tests say so and pass.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/conversation.rs"]
mod conversation;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "support/script.rs"]
mod script;

use chat_bins::processes::replica::Fault;
use conversation::Conversation;
use namespaces::Namespaces;
use serde_json::Value;
use std::time::Duration;

fn namespaces() -> Option<Namespaces> {
    let made = Namespaces::make();
    made.inspect_err(|why| println!("skipped: no network namespaces can be made here ({why})")).ok()
}

fn two_faults(name: &str, fault: &str) {
    let Some(spaces) = namespaces() else { return };
    let outside = Namespaces::inside(&spaces.outside());
    let outside: Vec<_> = outside.iter().map(String::as_str).collect();
    let places = [1, 2, 3].map(|id| format!("{}@{}", Namespaces::address(id), spaces.name(id)));
    let [a, b, c] = &places;
    script::passes(name, &outside, &["two-faults", "--fault", fault, "--at", a, "--at", b, "--at", c]);
}

#[test]
fn two_of_three_are_killed() {
    two_faults("namespaces-killed", "kill");
}

#[test]
fn two_of_three_are_stopped() {
    two_faults("namespaces-stopped", "term");
}

/// A leader, then a backup, falls silent: its network is gone, and nobody gets a refusal.
#[tokio::test]
async fn one_is_cut_off_by_silence() {
    let Some(spaces) = namespaces() else { return };
    let mut story = Conversation::begin(&spaces, "namespaces-silence", &[]).await;
    let leader = story.leader().await;
    story.cut_off(leader, "the leader", Namespaces::cut, Namespaces::join).await;
    let leader = story.leader().await;
    story.cut_off(if leader == 1 { 2 } else { 1 }, "a backup", Namespaces::cut, Namespaces::join).await;
    // What came back holds everything: it goes on alone, once it could prove the others' crashes.
    let last = story.leader().await % 3 + 1;
    let two = |ids: &Value| ids.as_array().is_some_and(|ids| ids.len() == 2);
    let ready = |line: &Value| line["id"] == last && line["in_view"][2] == 3 && two(&line["leases_from"]);
    story.trio.until("the last one holds the leases of the others", ready).await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != last) {
        story.trio.replica(id as usize).down(Fault::Kill).await.expect("it is killed");
    }
    story.say("on the last one alone").await;
    story.all_is_there().await;
    story.end().await;
}

/// A firewall that answers in the name of the others (rule 8). Where refusals are never proof, it is silence.
#[tokio::test]
async fn a_leader_behind_a_rejecting_firewall() {
    let Some(spaces) = namespaces_with_rules() else { return };
    let mut story = Conversation::begin(&spaces, "namespaces-reject", &["CHATD_CRASH_PROOF=never"]).await;
    let leader = story.leader().await;
    let reject = |spaces: &Namespaces, id: u32| {
        for other in [1, 2, 3].into_iter().filter(|other| *other != id) {
            spaces.reject(id, other);
        }
    };
    story.cut_off(leader, "the leader", reject, |spaces, _| spaces.no_rules()).await;
    story.all_is_there().await;
    story.end().await;
}

/// Refusals between two are denied by the third, so the default is safe there; and a link that is silent in one direction only
/// costs its ends no more than one that is cut.
#[tokio::test]
async fn one_link_lies_or_is_silent_one_way() {
    let Some(spaces) = namespaces_with_rules() else { return };
    let mut story = Conversation::begin(&spaces, "namespaces-link", &[]).await;
    let leader = story.leader().await;
    let backup = leader % 3 + 1;
    let other = backup % 3 + 1;
    let limit = Duration::from_secs(6);
    type Rule = fn(&Namespaces, u32, u32);
    let rules: [(&str, Rule); 3] = [
        ("refusals both ways", Namespaces::reject),
        ("silence one way", Namespaces::drop_from),
        ("silence both ways", |spaces, a, b| {
            spaces.drop_from(a, b);
            spaces.drop_from(b, a);
        }),
    ];
    for (from, to) in [(leader, backup), (backup, leader), (backup, other)] {
        for (what, rule) in rules {
            story.leader().await;
            let what = format!("{what} from {from} to {to}, led by {leader}");
            rule(&spaces, from, to);
            let (first, _) = story.say(&format!("first: {what}")).await;
            let (second, _) = story.say(&format!("second: {what}")).await;
            println!("{what}: acknowledged after {first:?}, then {second:?}");
            assert!(first.max(second) < limit, "{what}: {first:?} and {second:?} until it was acknowledged");
            spaces.no_rules();
        }
    }
    story.leader().await;
    story.all_is_there().await;
    story.end().await;
}

/// 20 ms there, 20 ms back, some of it lost, and one replica behind a narrow link.
#[tokio::test]
async fn slow_and_lossy_links() {
    let Some(spaces) = namespaces() else { return };
    let kinds = [
        ("delay and loss", &["netem", "delay", "20ms", "5ms", "loss", "2%"][..]),
        ("narrow", &["tbf", "rate", "2mbit", "burst", "8k", "latency", "200ms"]),
    ];
    for (what, kind) in kinds {
        if let Err(why) = spaces.shape(2, kind) {
            println!("skipped: {what}: {why}");
            continue;
        }
        let mut story = Conversation::begin(&spaces, "namespaces-slow", &[]).await;
        story.leader().await;
        for number in 1..=10 {
            let (acknowledged, delivered) = story.say(&format!("{what}, {number}")).await;
            println!("{what}: acknowledged after {acknowledged:?}, delivered after {delivered:?}");
        }
        story.all_is_there().await;
        story.end().await;
        spaces.unshape(2);
    }
}

fn namespaces_with_rules() -> Option<Namespaces> {
    let spaces = namespaces()?;
    let usable = spaces.rules_usable();
    usable.inspect_err(|why| println!("skipped: no packet filter rules can be made here ({why})")).ok()?;
    Some(spaces)
}
