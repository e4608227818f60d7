//! The power goes, at any sync of real replicas on real files, and with it every byte that was not synced: no acknowledged message
//! is lost, doubled or out of order, and every replica comes up by itself. docs/testing.md says what is modelled, and what is not.
//!
//! `POWER_CUTS=n SEED=s cargo test -p chat-bins --test power_cut -- --nocapture` cuts more often than the few times that are meant
//! for everybody.

#[path = "support/power.rs"]
mod power;
#[path = "support/rack.rs"]
mod rack;
#[path = "support/talk.rs"]
mod talk;

use chat_bins::processes::replica::Fault;
use power::{Model, Supply, When};
use rack::Rack;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use std::path::Path;
use talk::{Talk, Told};

/// Every way in which the power goes at a sync.
const WAYS: [(When, Model); 5] = [
    (When::Before, Model::Strict),
    (When::After, Model::Strict),
    (When::Before, Model::Lenient),
    (When::Before, Model::Torn),
    (When::After, Model::Torn),
];
/// Of 1000 writes, those that a kernel brings to the disk by itself where writes are torn.
const WRITEBACK: u32 = 150;

/// What happened, for people.
#[derive(Default)]
struct Tally {
    cuts: usize,
    torn: usize,
    acknowledged: usize,
}

impl Tally {
    fn cut(&mut self, model: Model) {
        self.cuts += 1;
        self.torn += usize::from(model == Model::Torn);
    }

    fn say(&self, name: &str, more: &str) {
        let Tally { cuts, torn, acknowledged } = self;
        println!(
            "{name}: {cuts} power cuts, {torn} of them with torn writes; {acknowledged} messages acknowledged; \
             0 lost, 0 doubled, 0 out of order; {more}"
        );
    }
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| rand::rng().random());
    println!("SEED={seed}");
    seed
}

/// How many cuts are to be made: what `POWER_CUTS` says, or else this.
fn wanted(few: usize) -> usize {
    std::env::var("POWER_CUTS").map_or(few, |many| many.parse().expect("POWER_CUTS is a number"))
}

fn or_skip(rack: Result<Rack, String>) -> Option<Rack> {
    rack.inspect_err(|why| println!("skipped: the power cannot be cut here: {why}")).ok()
}

/// Says where it happened, and where the data are.
fn demand<T>(result: Result<T, String>, place: &str, rack: &Rack) -> T {
    result.unwrap_or_else(|wrong| panic!("{place}: {wrong}; data and logs are in {}", rack.folder()))
}

/// A part of the life of a replica that is alone, and which is repeated with a cut at each of its syncs.
struct Life {
    batch: usize,
    padding: usize,
    /// After so many messages the process crashes, and after as many again this is over.
    half: usize,
}

impl Life {
    /// Lives it until the power goes, at this sync or at its end. Returns what goes on talking, and how many syncs there were.
    async fn live(&self, rack: &mut Rack, at: u32, when: When, model: Model) -> Result<(Talk, u32), String> {
        let _ = std::fs::remove_dir_all(rack.data(0));
        rack.disks[0].settle();
        rack.supply.switch_on(0);
        let writeback = if model == Model::Torn { WRITEBACK } else { 0 };
        rack.boot(0, writeback);
        rack.supply.arm(0, at, when, &[0]);
        let mut talk = Talk::begin(&rack.servers(), Told::default(), self.batch, self.padding);
        if reached_with_power(rack, &mut talk, self.half).await? {
            // A crash of the process: what it wrote and did not sync is in the page cache, for its successor.
            rack.replicas[0].down(Fault::Kill).await.map_err(|broken| broken.to_string())?;
            rack.replicas[0].launch().map_err(|broken| broken.to_string())?;
            if reached_with_power(rack, &mut talk, 2 * self.half).await? {
                rack.supply.switch_off(&[0]);
            }
        }
        let syncs = rack.supply.syncs(0);
        rack.lose(&[0], model).await?;
        Ok((talk, syncs))
    }
}

/// Whether so many messages were acknowledged before the power went.
async fn reached_with_power(rack: &mut Rack, talk: &mut Talk, count: usize) -> Result<bool, String> {
    tokio::select! {
        biased;
        reached = talk.reach(count) => reached.map(|()| !rack.supply.has_cut(0)),
        gone = rack.replicas[0].gone(Fault::Kill) => {
            let cut = rack.supply.has_cut(0);
            // `lose` waits for it, too.
            gone.map_err(|broken| broken.to_string())?;
            if cut { Ok(false) } else { Err("it was killed, and not by the cut".to_owned()) }
        }
    }
}

/// After a cut: the replica comes up, answers what was under way, goes on, and holds everything.
async fn goes_on(rack: &mut Rack, mut talk: Talk) -> Result<Told, String> {
    let before = talk.count();
    rack.boot(0, 0);
    talk.reach(before + 1).await?;
    let told = talk.end().await?;
    rack.whole().await?;
    rack.keeps(&told).await?;
    rack.replicas[0].down(Fault::Kill).await.map_err(|broken| broken.to_string())?;
    Ok(told)
}

/// Cuts the power at syncs of this life: at all of them in every way, or at as many as are wanted.
async fn cut_everywhere(name: &str, mut rack: Rack, life: Life, few: usize, seed: u64) {
    let end = life.live(&mut rack, 0, When::Before, Model::Strict).await;
    let (talk, syncs) = demand(end, "without a cut before the end", &rack);
    demand(goes_on(&mut rack, talk).await, "without a cut before the end", &rack);
    let all = (1..=syncs).flat_map(|at| WAYS.map(|(when, model)| (at, when, model)));
    let mut places: Vec<_> = all.collect();
    places.shuffle(&mut StdRng::seed_from_u64(seed));
    let of = places.len();
    places.truncate(wanted(few));
    let mut tally = Tally::default();
    tally.cut(Model::Strict);
    for (at, when, model) in &places {
        let place = format!("power cut at sync {at}, {when:?}, {model:?}");
        let (talk, _) = demand(life.live(&mut rack, *at, *when, *model).await, &place, &rack);
        let told = demand(goes_on(&mut rack, talk).await, &place, &rack);
        tally.cut(*model);
        tally.acknowledged += told.sent.len();
    }
    let points: std::collections::BTreeSet<u32> = places.iter().map(|(at, ..)| *at).collect();
    let (points, ways) = (points.len(), places.len());
    tally.say(name, &format!("{points} of {syncs} syncs, in {ways} of {of} combinations with ways to go"));
    rack.passed();
}

/// From an empty disk: made, founded, accounts, messages, a crash of the process, and more messages.
#[tokio::test]
async fn one_replica_from_its_first_sync_on() {
    let seed = seed();
    let Some(rack) = or_skip(Rack::new("young", 1, seed)) else { return };
    let life = Life { batch: 3, padding: 0, half: 12 };
    cut_everywhere("one replica, from its first sync on", rack, life, 8, seed).await;
}

/// So much is written that each area of the redo log is written over, and the write-ahead log goes into the database, in each process run.
#[tokio::test]
async fn one_replica_whose_logs_are_written_over() {
    let seed = seed();
    let Some(rack) = or_skip(Rack::new("over", 1, seed)) else { return };
    // 18 MB a run; the redo log has 16 MiB.
    let life = Life { batch: 12, padding: 60_000, half: 300 };
    cut_everywhere("one replica, whose logs are written over", rack, life, 6, seed).await;
}

/// The whole rack, or a part of it, while somebody writes; then what was cut comes back.
#[tokio::test]
async fn three_replicas_on_one_supply() {
    let seed = seed();
    let Some(mut rack) = or_skip(Rack::new("rack", 3, seed)) else { return };
    rack.machines().into_iter().for_each(|machine| rack.boot(machine, 0));
    demand(rack.whole().await, "founding", &rack);
    let (mut tally, mut told, mut by_victims) = (Tally::default(), Told::default(), [0; 4]);
    for round in 0..wanted(6) {
        let (_, model) = WAYS[rack.random.random_range(0..WAYS.len())];
        // All three; then two and one, whose rest must go on.
        let victims = match round % 4 {
            0 | 2 => 3,
            1 => 2,
            _ => 1,
        };
        let place = format!("round {round}: {victims} machines lose their power, {model:?}");
        told = demand(rack_round(&mut rack, told, victims, model).await, &place, &rack);
        tally.cut(model);
        by_victims[victims] += 1;
    }
    tally.acknowledged = told.sent.len();
    let [_, one, two, three] = by_victims;
    tally.say("three replicas", &format!("{three} times all three at once, {two} times two, {one} times one"));
    rack.passed();
}

async fn rack_round(rack: &mut Rack, told: Told, victims: usize, model: Model) -> Result<Told, String> {
    let mut machines = rack.machines();
    machines.shuffle(&mut rack.random);
    let lost = machines[..victims].to_vec();
    let mut talk = Talk::begin(&rack.servers(), told, 4, 100);
    talk.reach(talk.count() + 4).await?;
    let (when, _) = WAYS[rack.random.random_range(0..WAYS.len())];
    let at = rack.supply.syncs(lost[0]) + rack.random.random_range(1..20);
    rack.supply.arm(lost[0], at, when, &lost);
    rack.lose(&lost, model).await?;
    if victims < 3 {
        talk.reach(talk.count() + 8).await?;
    }
    let before = talk.count();
    lost.iter().for_each(|machine| rack.boot(*machine, if model == Model::Torn { WRITEBACK } else { 0 }));
    talk.reach(before + 8).await?;
    let told = talk.end().await?;
    rack.whole().await?;
    rack.keeps(&told).await?;
    Ok(told)
}

/// While the cluster is founded, once or several times in a row: it founds itself after all, and is one.
#[tokio::test]
async fn three_replicas_while_they_found_their_cluster() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut tally, mut founded) = (Tally::default(), 0);
    while tally.cuts < wanted(4) {
        let Some(mut rack) = or_skip(Rack::new("founding", 3, random.random())) else { return };
        let place = format!("founding with seed {seed}, after {} power cuts", tally.cuts);
        let before = tally.cuts;
        for _ in 0..rack.random.random_range(1..=2) {
            let found = cut_while_founding(&mut rack, &mut tally).await;
            founded += usize::from(demand(found, &place, &rack));
        }
        let one = found_after_all(&mut rack).await;
        tally.acknowledged += demand(one, &format!("{place} and {} more", tally.cuts - before), &rack);
        rack.passed();
    }
    tally.say("three replicas while they found", &format!("{founded} cuts found the cluster founded already"));
}

/// Starts all, and cuts the power of all at some early sync of one of them; or once they have founded, if that was first.
async fn cut_while_founding(rack: &mut Rack, tally: &mut Tally) -> Result<bool, String> {
    let (when, model) = WAYS[rack.random.random_range(0..WAYS.len())];
    let (machine, at) = (rack.random.random_range(0..3), rack.random.random_range(1..=16));
    let all = rack.machines();
    all.iter().for_each(|machine| rack.supply.switch_on(*machine));
    rack.supply.arm(machine, at, when, &all);
    for replica in &mut rack.replicas {
        replica.launch().map_err(|broken| broken.to_string())?;
    }
    let whole = rack.whole().await;
    let founded = whole.is_ok();
    if !rack.supply.has_cut(machine) {
        whole?;
        rack.supply.switch_off(&all);
    }
    rack.lose(&all, model).await?;
    tally.cut(model);
    Ok(founded)
}

async fn found_after_all(rack: &mut Rack) -> Result<usize, String> {
    rack.machines().into_iter().for_each(|machine| rack.boot(machine, 0));
    let states = rack.whole().await?;
    if states.iter().any(|state| state.cluster.is_empty() || state.cluster != states[0].cluster) {
        return Err(format!("not one cluster: {states:#?}"));
    }
    let mut talk = Talk::begin(&rack.servers(), Told::default(), 2, 0);
    talk.reach(4).await?;
    let told = talk.end().await?;
    rack.keeps(&told).await?;
    Ok(told.sent.len())
}

/// The tests above can fail: they notice a disk that says that it has synced, and has not.
#[tokio::test]
async fn a_disk_that_lies_is_found_out() {
    let Some(mut rack) = or_skip(Rack::new("liar", 1, 1)) else { return };
    rack.boot(0, 0);
    let mut talk = Talk::begin(&rack.servers(), Told::default(), 3, 0);
    talk.reach(6).await.expect("acknowledged");
    rack.replicas[0].down(Fault::Kill).await.expect("killed");
    // What it did not sync before is lost with the power, and no word of it left: so everything is well until here.
    rack.launch_on_a_liar(0);
    talk.reach(12).await.expect("acknowledged");
    let told = talk.abort();
    rack.supply.switch_off(&[0]);
    rack.lose(&[0], Model::Strict).await.expect("the power goes");
    rack.boot(0, 0);
    rack.whole().await.expect("it comes up");
    let wrong = rack.keeps(&told).await.expect_err("acknowledged messages are lost");
    // Something that was on its way may have come after all, and taken the place of one that is lost.
    assert!(wrong.contains("is lost") || wrong.contains("in place of message"), "{wrong}");
    rack.passed();
}

/// What `powercut.c` keeps is what was synced: contents by a file's own sync, names by their directory's.
#[test]
fn what_was_not_synced_is_gone() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("power-files-{}", std::process::id()));
    let supply = match Supply::new(&folder) {
        Ok(supply) => supply,
        Err(why) => return println!("skipped: the power cannot be cut here: {why}"),
    };
    let written = |model, commands: &[&Vec<&str>]| {
        let disk = supply.disk(1, folder.join(format!("{model:?}")));
        std::fs::create_dir(disk.root.join("d")).expect("a folder");
        disk.settle();
        commands.iter().for_each(|command| disk.run(&supply, command));
        disk.lose(model, 1);
        let file = std::fs::read(disk.root.join("d/file"));
        std::fs::remove_dir_all(&disk.root).expect("removed");
        file.map(|bytes| bytes.len()).ok()
    };
    let write = vec!["dd", "if=/dev/zero", "of=d/file", "bs=1000", "count=1", "status=none"];
    let write_and_sync = [&write[..], &["conv=fsync"]].concat();
    let more = [&write[..], &["seek=1", "conv=notrunc"]].concat();
    let sync_name = vec!["sync", "d"];
    let remove = vec!["rm", "d/file"];
    assert_eq!(written(Model::Strict, &[&write_and_sync]), None, "its name was not synced");
    assert_eq!(written(Model::Lenient, &[&write_and_sync]), Some(1000));
    assert_eq!(written(Model::Strict, &[&write, &sync_name]), Some(0), "its content was not synced");
    assert_eq!(written(Model::Lenient, &[&write]), Some(0), "its content was not synced");
    assert_eq!(written(Model::Strict, &[&write_and_sync, &sync_name, &more]), Some(1000), "the end was not synced");
    assert_eq!(written(Model::Strict, &[&write_and_sync, &sync_name, &remove]), Some(1000), "that it is gone, was not");
    assert_eq!(written(Model::Strict, &[&write_and_sync, &sync_name, &remove, &sync_name]), None);
    let _ = std::fs::remove_dir_all(&folder);
}
