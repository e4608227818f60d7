//! Scripted worlds, each for the one rule that it misses. With all rules, each gets through.

use chat_replica::protocol::{Input, Member, Rules, Standing};
use chat_testkit::simulation::world::{Settings, World, id};
use chat_testkit::simulation::{Broken, MS, SECOND};

pub fn two(rules: Rules) -> Settings {
    Settings { rules, ..Settings::calm(2, 1) }
}

pub fn three(rules: Rules) -> Settings {
    // What is sent into a cut gets lost.
    Settings { rules, cuts_buffer: false, ..Settings::calm(3, 1) }
}

pub fn five(rules: Rules) -> Settings {
    Settings { rules, cuts_buffer: false, ..Settings::calm(5, 1) }
}

/// What leaves too early is left to show in what is lost.
pub fn unordered(rules: Rules) -> Settings {
    Settings { order_is_checked: false, ..three(rules) }
}

/// Clocks run as differently as they may.
pub fn clocks(rules: Rules) -> Settings {
    Settings { drift_permille: 50, ..three(rules) }
}

pub fn two_copies(rules: Rules) -> Settings {
    Settings { min_copies: 2, ..three(rules) }
}

/// Founded and serving; the primary and the others.
fn begin(world: &mut World) -> (usize, Vec<usize>) {
    until(world, "founded", |world| world.is_well());
    let primary = world.serving()[0];
    write(world, primary);
    (primary, (0..world.settings.n).filter(|host| *host != primary).collect())
}

fn until(world: &mut World, what: &str, done: impl FnMut(&World) -> bool) {
    let before = world.now;
    let done = world.run_until_so(5 * SECOND, done) || world.violation().is_some();
    assert!(done, "not {what} since {before}\n{}", world.describe());
}

/// A batch of this host's is acknowledged.
fn write(world: &mut World, host: usize) {
    let before = world.truth.acknowledgements();
    assert!(world.propose(host) || world.violation().is_some(), "a serving primary takes a batch");
    until(world, "acknowledged", |world| world.truth.acknowledgements() > before);
}

fn member(world: &World, host: usize) -> Member {
    world.process(host).expect("it runs").member()
}

fn leads(world: &World, host: usize) -> bool {
    world.process(host).is_some_and(|process| process.replica().status().standing == Standing::Primary)
}

fn view_of(world: &World, host: usize) -> usize {
    world.process(host).map_or(0, |process| process.replica().copies())
}

fn heal(world: &mut World, a: usize, b: usize) {
    world.heal(a, b);
    world.heal(b, a);
}

/// Nothing passes between the two, and their sessions last.
fn mute_both(world: &mut World, a: usize, b: usize) {
    world.mute(a, b, "all");
    world.mute(b, a, "all");
}

fn unmute(world: &mut World) {
    let all: Vec<usize> = (0..world.settings.n).collect();
    world.unmute(&all);
}

fn kill_all(world: &mut World, hosts: &[usize]) {
    hosts.iter().for_each(|host| world.kill(*host, "is killed"));
}

/// An entry of an older epoch reaches a majority, and its new primary dies before its own view does. A log with a later
/// epoch, which never heard of the entry, then wins.
pub fn an_older_epochs_entry_is_held_by_the_new_view(world: &mut World) {
    let (old, others) = begin(world);
    let (x, y) = (others[0], others[1]);
    // The next primary's own view stays on its own disk.
    world.mute(x, y, "append");
    world.mute(y, x, "append");
    world.isolate(old);
    world.propose_large(old);
    until(world, "another leads", |world| leads(world, x) || leads(world, y));
    let (next, voter) = if leads(world, x) { (x, y) } else { (y, x) };
    world.run_for(10 * MS);
    world.isolate(next);
    unmute(world);
    heal(world, old, voter);
    // The first one leads again, and brings its entry to the voter: that, but not its new view.
    let entries = world.hosts[voter].entries();
    let end = world.now + 5 * SECOND;
    while world.process(voter).is_some() && world.hosts[voter].entries() == entries && world.now < end {
        world.run_for(20);
    }
    world.mute(old, voter, "append");
    world.run_for(5 * MS);
    world.kill(old, "is killed");
    unmute(world);
    heal(world, next, voter);
    until(world, "the later log has won", |world| !world.serving().is_empty());
}

/// Neither half of a pair knows of the other.
pub fn a_pair_is_parted(world: &mut World) {
    let (old, _) = begin(world);
    world.isolate(old);
    world.run_for(3 * SECOND);
}

/// One is left out, and others write without it; then it is to be taken in again, and its ping of before still names the view
/// of before. Those who take it in die before it hears of that.
pub fn one_left_out_is_about_to_be_taken_in(world: &mut World) {
    let (primary, others) = begin(world);
    let (stays, out) = (others[0], others[1]);
    world.run_for(300 * MS);
    world.mute(primary, out, "append");
    world.mute(out, primary, "all");
    until(world, "left out", |world| view_of(world, primary) == 2);
    write(world, primary);
    world.unmute(&[out]);
    let has = |world: &World, host: usize| {
        let me = member(world, out);
        world.process(host).is_some_and(|p| p.replica().named_in_view(me.id) == Some(me))
    };
    until(world, "proposed again", |world| has(world, primary) && has(world, stays));
    world.run_for(250 * MS);
    kill_all(world, &[primary, stays]);
    world.run_for(500 * MS);
}

/// Dials are refused one way, by a firewall that lets an established session be.
pub fn dials_are_refused_and_a_session_lasts(world: &mut World) {
    let (primary, others) = begin(world);
    world.run_for(300 * MS);
    world.reject(others[0], primary);
    world.run_for(3 * SECOND);
    world.stop_rejecting();
    world.run_for(SECOND);
}

/// Between two of three a firewall refuses, both ways; both still reach the third.
pub fn one_link_has_a_firewall_in_it(world: &mut World) {
    let (primary, others) = begin(world);
    world.run_for(300 * MS);
    world.reject(others[0], primary);
    world.reject(primary, others[0]);
    world.run_for(3 * SECOND);
    world.stop_rejecting();
    world.run_for(SECOND);
}

/// One says goodbye and is left out at once, but does not hear that it was; then the others die.
pub fn one_that_said_goodbye_sees_the_others_die(world: &mut World) {
    let (primary, others) = begin(world);
    world.run_for(300 * MS);
    world.mute(primary, others[1], "append");
    world.leave(others[1]);
    until(world, "left out", |world| view_of(world, primary) == 2);
    write(world, primary);
    kill_all(world, &[primary, others[0]]);
    world.run_for(500 * MS);
}

/// The primary of a pair is cut off, leaves the other out, writes alone, and is fenced.
pub fn a_fence_comes_after_the_lease(world: &mut World) {
    let (primary, others) = begin(world);
    world.isolate(primary);
    world.run_for(3 * SECOND);
    write(world, primary);
    let fenced = member(world, primary);
    world.kill(primary, "is fenced");
    world.input(others[0], Input::Fenced { peer: fenced });
    world.run_for(SECOND);
}

/// A disk of another cluster, where it had the same number, is plugged in by mistake.
pub fn a_disk_of_another_cluster_is_plugged_in(world: &mut World) {
    let (_, others) = begin(world);
    let host = others[0];
    let mut elsewhere = World::new(Settings { seed: 2, ..Settings::calm(3, 2) });
    begin(&mut elsewhere);
    elsewhere.kill(host, "is stopped");
    world.kill(host, "is stopped");
    let disk = elsewhere.hosts[host].snapshot();
    world.plug_in(host, disk.clone());
    world.start(host);
    world.run_for(3 * SECOND);
    if !world.hosts[host].begins_as(&disk) {
        world.violate(Broken::OneHistory, "a disk", "one cluster has cut back what another had stored");
    }
}

/// Two of three die, with `min_copies = 2`.
pub fn fewer_copies_than_wanted_are_left(world: &mut World) {
    let (primary, others) = begin(world);
    kill_all(world, &others);
    until(world, "alone", |world| view_of(world, primary) == 1);
    if world.propose(primary) {
        world.violate(Broken::Copies, "the primary", "it takes a write for one disk, where two were asked for");
    }
}

/// A disk has lost what it had acknowledged, and meets one that was left out before.
pub fn a_damaged_disk_and_a_stale_one_meet(world: &mut World) {
    let (old, others) = begin(world);
    let (stale, damaged) = (others[0], others[1]);
    world.isolate(stale);
    until(world, "left out", |world| view_of(world, old) == 2);
    let from = world.hosts[damaged].entries();
    write(world, old);
    world.run_for(200 * MS);
    world.damage_from(damaged, from);
    world.isolate(old);
    heal(world, stale, damaged);
    world.start(damaged);
    world.run_for(3 * SECOND);
}

/// The one backup that is left acknowledges the view without the other, and dies before its disk has it. The primary goes on
/// alone and is cut off; the disk that forgot votes for the one that was left out.
pub fn a_backup_dies_while_it_writes_the_view(world: &mut World) {
    let (primary, others) = begin(world);
    let (forgets, out) = (others[0], others[1]);
    world.run_for(300 * MS);
    world.isolate(out);
    world.hosts[forgets].stall = 100 * MS;
    until(world, "left out", |world| view_of(world, primary) == 2);
    world.kill(forgets, "is killed");
    world.hosts[forgets].stall = 0;
    until(world, "alone", |world| view_of(world, primary) == 1);
    write(world, primary);
    world.isolate(primary);
    heal(world, forgets, out);
    world.start(forgets);
    world.run_for(3 * SECOND);
}

/// A voter dies after its vote and comes back. The primary that was to be deposed goes on with it; then the one that it had
/// voted for comes with its entries.
pub fn a_voter_dies_and_comes_back(world: &mut World) {
    let (old, others) = begin(world);
    let (x, y) = (others[0], others[1]);
    world.mute(x, y, "append");
    world.mute(y, x, "append");
    world.isolate(old);
    until(world, "another leads", |world| leads(world, x) || leads(world, y));
    let (next, voter) = if leads(world, x) { (x, y) } else { (y, x) };
    world.kill(voter, "is killed");
    world.isolate(next);
    heal(world, old, voter);
    world.start(voter);
    // With its promise the voter deposes the old primary: then there is none until all have met.
    world.run_for(SECOND);
    world.propose(old);
    world.run_for(200 * MS);
    world.isolate(old);
    unmute(world);
    heal(world, next, voter);
    world.run_for(3 * SECOND);
}

/// A winner keeps itself only, as the disk that voted for it is behind, and is cut off before that disk has its view.
pub fn a_winner_is_alone_in_its_view(world: &mut World) {
    let (old, others) = begin(world);
    let (wins, behind) = (others[0], others[1]);
    world.mute(old, behind, "append");
    world.mute(wins, behind, "append");
    world.propose(old);
    world.run_for(20 * MS);
    world.isolate(old);
    world.kill(behind, "is killed");
    world.start(behind);
    world.run_for(2 * SECOND);
    world.isolate(wins);
    unmute(world);
    heal(world, old, behind);
    world.run_for(2 * SECOND);
}

/// An acknowledgement of what was cut back since arrives when its addressee leads again. The one that gave it lacks an entry,
/// and then sees all others die.
pub fn an_acknowledgement_of_an_earlier_term_comes_late(world: &mut World) {
    let (first, others) = begin(world);
    let behind = others[0];
    world.hold_back(behind, first, "append reply");
    others[1..].iter().for_each(|other| world.mute(first, *other, "append"));
    for _ in 0..50 {
        world.propose(first);
    }
    world.run_for(50 * MS);
    for other in &others {
        mute_both(world, first, *other);
        mute_both(world, behind, *other);
    }
    until(world, "another serves", |world| others[1..].iter().any(|other| world.serving().contains(other)));
    world.stop_holding();
    unmute(world);
    until(world, "well", |world| world.is_well());
    let second = world.serving()[0];
    world.input(second, Input::Transfer { to: Some(id(first)) });
    until(world, "handed over", |world| world.serving() == [first] && world.is_well());
    world.run_for(300 * MS);
    world.mute(first, behind, "append");
    world.propose(first);
    world.run_for(20 * MS);
    world.let_go("append reply");
    world.run_for(20 * MS);
    kill_all(world, &[first, others[1], others[2], others[3]]);
    world.run_for(500 * MS);
}

/// Votes for a candidacy that failed arrive when their candidate stands again, with less than the voters hold by then.
pub fn votes_of_an_earlier_candidacy_come_late(world: &mut World) {
    let (primary, others) = begin(world);
    let candidate = others[0];
    for voter in [primary, others[1]] {
        world.hold_back(voter, candidate, "vote");
        world.mute(candidate, voter, "poll");
    }
    world.input(primary, Input::Transfer { to: Some(id(candidate)) });
    until(world, "another serves", |world| {
        world.serving().iter().any(|host| {
            *host != candidate && world.process(*host).is_some_and(|p| p.replica().status().epoch.round > 2)
        })
    });
    world.stop_holding();
    unmute(world);
    until(world, "well", |world| world.is_well());
    let serving = world.serving()[0];
    // It is asked to stand, but hears so late, when it has been left out.
    world.hold_back(serving, candidate, "transfer");
    world.input(serving, Input::Transfer { to: Some(id(candidate)) });
    world.run_for(600 * MS);
    world.mute(serving, candidate, "append");
    world.mute(candidate, serving, "all");
    until(world, "left out", |world| view_of(world, serving) == 2);
    write(world, serving);
    world.let_go("transfer");
    world.run_for(20 * MS);
    world.let_go("vote");
    world.run_for(20 * MS);
    unmute(world);
    world.run_for(SECOND);
}

/// All sessions between two that live end, and the first dials after that are refused: once each.
pub fn sessions_end_and_one_dial_is_refused(world: &mut World) {
    let (primary, others) = begin(world);
    world.run_for(300 * MS);
    world.reject(primary, others[0]);
    world.reject(others[0], primary);
    world.run_for(3 * MS);
    world.stop_rejecting();
    world.run_for(SECOND);
}

/// A disk is put back to what it held some time ago, and meets one that was left out since.
pub fn a_disk_that_was_rolled_back_meets_a_stale_one(world: &mut World) {
    let (primary, others) = begin(world);
    let (stale, rolled) = (others[0], others[1]);
    world.kill(rolled, "is stopped");
    let snapshot = world.hosts[rolled].snapshot();
    world.start(rolled);
    until(world, "well", |world| world.is_well());
    let first = world.serving()[0];
    assert_eq!(first, primary, "a backup's restart deposes nobody");
    world.isolate(stale);
    until(world, "left out", |world| view_of(world, primary) == 2);
    write(world, primary);
    world.roll_back(rolled, snapshot);
    world.isolate(primary);
    heal(world, stale, rolled);
    world.start(rolled);
    world.run_for(3 * SECOND);
}

/// The one that founds, the lowest of the list, comes back with an empty disk.
pub fn the_founders_disk_is_replaced(world: &mut World) {
    begin(world);
    world.wipe(0);
    world.run_for(100 * MS);
    // It hears from all before a primary's entries reach it.
    world.mute(1, 0, "append");
    world.mute(2, 0, "append");
    world.start(0);
    world.run_for(500 * MS);
    unmute(world);
    world.run_for(SECOND);
    let clusters: Vec<_> = world.hosts.iter().map(|host| host.cluster()).collect();
    if clusters.iter().any(|cluster| *cluster != clusters[1]) {
        world.violate(Broken::OneHistory, "the founder", format!("founds another cluster: {clusters:?}"));
    }
}

/// A damaged disk gets back a part of what it had acknowledged; then it meets one that was left out.
pub fn a_damaged_disk_is_half_repaired(world: &mut World) {
    let (primary, others) = begin(world);
    let (stale, damaged) = (others[0], others[1]);
    world.propose_large(primary);
    world.run_for(500 * MS);
    let large = world.truth.committed();
    world.isolate(stale);
    until(world, "left out", |world| view_of(world, primary) == 2);
    write(world, primary);
    world.damage_from(damaged, large);
    world.start(damaged);
    let end = world.now + SECOND;
    while world.process(damaged).is_some() && world.hosts[damaged].entries() < large && world.now < end {
        world.run_for(20);
    }
    world.mute(primary, damaged, "append");
    world.run_for(5 * MS);
    world.isolate(primary);
    heal(world, stale, damaged);
    world.run_for(3 * SECOND);
}

/// A backup is asked to stand while it is paused, and finds its primary proven crashed when it goes on: it has won before its
/// disk holds its promise. One that learns is there to be sent entries.
pub fn one_stands_and_wins_in_one_turn(world: &mut World) {
    let (primary, others) = begin(world);
    let (wins, learns) = (others[0], others[1]);
    world.kill(learns, "is killed");
    until(world, "without it", |world| view_of(world, primary) == 2 && view_of(world, wins) == 2);
    // It listens, but is neither caught up nor heard.
    world.mute(primary, learns, "append");
    world.mute(learns, wins, "all");
    world.mute(learns, primary, "all");
    world.start(learns);
    world.run_for(600 * MS);
    world.hold_back(primary, wins, "transfer");
    world.input(primary, Input::Transfer { to: Some(id(wins)) });
    world.run_for(20 * MS);
    world.pause(wins, 50 * MS);
    world.let_go("transfer");
    world.run_for(5 * MS);
    world.kill(primary, "is killed");
    world.run_for(5 * MS);
    (0..3).for_each(|_| world.refuse_once(wins, primary));
    world.run_for(SECOND);
}

/// One is left out in silence, the others write and die; then their addresses refuse it.
pub fn refusals_come_after_the_lease(world: &mut World) {
    let (primary, others) = begin(world);
    let (stays, out) = (others[0], others[1]);
    world.isolate(out);
    until(world, "left out", |world| view_of(world, primary) == 2);
    write(world, primary);
    kill_all(world, &[primary, stays]);
    world.heal_all();
    world.run_for(SECOND);
}

/// One is left out in silence, the others write, die and come back, and tell so.
pub fn successors_come_back_to_one_left_out(world: &mut World) {
    let (primary, others) = begin(world);
    let (stays, out) = (others[0], others[1]);
    world.isolate(out);
    until(world, "left out", |world| view_of(world, primary) == 2);
    write(world, primary);
    kill_all(world, &[primary, stays]);
    world.cut_both(primary, stays);
    heal(world, primary, out);
    heal(world, stays, out);
    world.start(primary);
    world.start(stays);
    world.run_for(SECOND);
}

/// A primary that cannot bring its entries to the others goes on to a view of itself, which cannot commit. Then it is cut off and
/// deposed, and does not hear of it.
pub fn a_primary_proposes_a_view_of_itself(world: &mut World) {
    let (primary, others) = begin(world);
    world.run_for(300 * MS);
    others.iter().for_each(|other| world.mute(primary, *other, "append"));
    world.propose(primary);
    let proposed = |world: &World| {
        let log = world.process(primary).map(|process| process.replica().log().views_in_force());
        log.and_then(|views| views.last()).map_or(0, |at| at.view.members.len())
    };
    until(world, "alone in its view", |world| proposed(world) == 1);
    world.isolate(primary);
    another_writes(world, &others);
}

/// One of these serves, and writes at once.
fn another_writes(world: &mut World, hosts: &[usize]) {
    until(world, "another serves", |world| hosts.iter().any(|host| world.serving().contains(host)));
    if let Some(next) = hosts.iter().find(|host| world.serving().contains(host)) {
        write(world, *next);
    }
    world.run_for(500 * MS);
}

/// The primary is cut off, and reads as long as its clock lets it; the clock of the next may be faster.
pub fn one_with_a_faster_clock_takes_over(world: &mut World) {
    let (primary, others) = begin(world);
    world.run_for(300 * MS);
    world.isolate(primary);
    another_writes(world, &others);
}

/// Answers to pings take long, and the primary's own messages get lost from some time on.
pub fn answers_to_pings_take_long(world: &mut World) {
    let (primary, others) = begin(world);
    others.iter().for_each(|other| world.slow_link(*other, primary, 250 * MS));
    world.run_for(SECOND);
    others.iter().for_each(|other| world.mute(primary, *other, "all"));
    another_writes(world, &others);
}
