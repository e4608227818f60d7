//! Writing: who holds what when it commits (rules 1, 13).

use super::*;

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

/// Two of three die, with `min_copies = 2`.
pub fn fewer_copies_than_wanted_are_left(world: &mut World) {
    let (primary, others) = begin(world);
    kill_all(world, &others);
    until(world, "alone", |world| view_of(world, primary) == 1);
    if world.propose(primary) {
        world.violate(Broken::Copies, "the primary", "it takes a write for one disk, where two were asked for");
    }
}
