//! Scripted worlds, each for the one rule that it misses. With all rules, each gets through.

use chat_replica::protocol::{Input, Member, Rules, Standing};
use chat_testkit::simulation::world::{Settings, World, id};
use chat_testkit::simulation::{Broken, MS, SECOND};

pub mod commits;
pub mod disks;
pub mod elections;
pub mod leases;
pub mod proof;

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
