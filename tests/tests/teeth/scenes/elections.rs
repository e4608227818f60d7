//! Standing, voting and taking over (rules 2 to 5).

use super::*;

/// Neither half of a pair knows of the other.
pub fn a_pair_is_parted(world: &mut World) {
    let (old, _) = begin(world);
    world.isolate(old);
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
