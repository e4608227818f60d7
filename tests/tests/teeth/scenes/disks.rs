//! Disks that are not what they were (rules 12, 15).

use super::*;

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
