//! Leases, and reads under them (rules 7, 11).

use super::*;

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
