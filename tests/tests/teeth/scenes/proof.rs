//! What proves a crash, and what does not (rule 8).

use super::*;

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
