//! Each rule that carries safety, switched off: the search must then find what breaks. With all rules the same run finds nothing.
//!
//! A tooth is a random walk with a recorded seed, or a scripted scene. Seeds shift when the simulation changes: the test then
//! searches on, and `RECORD=1 cargo test -p chat-testkit --test teeth -- --nocapture` prints the seeds to record.
//! `SHOW=LogComparison` prints the end of that rule's trace; `TRIES` says how many seeds are tried.

use chat_replica::protocol::{Rule, Rules};
use chat_testkit::simulation::MS;
use chat_testkit::simulation::walk::{Character, Fault, walk_as};
use chat_testkit::simulation::world::{Settings, World};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

mod scenes;

/// What finds that a rule is missing.
enum By {
    /// A random walk of this character; found at this seed when it was recorded.
    Walk(u64, Character),
    /// A scripted world. It panics if something is lost, and gets through with all rules.
    Scene(fn(&mut World), fn(Rules) -> Settings),
}
use By::*;

struct Tooth {
    rule: Rule,
    by: By,
}

const ANY: Character = Character { weights: &[], nothing_else: false, pause: None, rules: None, settings: None };

/// Disks are damaged, replaced and rolled back.
const DISKS: Character = Character { weights: &[(Fault::Disk, 30)], settings: Some(three), ..ANY };

/// Many die, some in silence, soon after each other.
const DEATHS: Character = Character {
    weights: &[(Fault::Kill, 20), (Fault::KillAll, 10), (Fault::Isolate, 12), (Fault::Heal, 12), (Fault::Bounce, 10)],
    pause: Some(600 * MS),
    settings: Some(three),
    ..ANY
};

/// The quickest and slowest clocks, and long ways.
const CLOCKS: Character = Character {
    weights: &[
        (Fault::Isolate, 20),
        (Fault::Kill, 20),
        (Fault::KillAll, 20),
        (Fault::PauseInTurn, 10),
        (Fault::Mute, 20),
    ],
    pause: Some(1500 * MS),
    settings: Some(clocks),
    ..ANY
};

fn three(settings: &mut Settings) {
    settings.n = 3;
    settings.min_copies = 1;
    settings.refusal_is_proof = true;
}

fn clocks(settings: &mut Settings) {
    three(settings);
    settings.drift_permille = 50;
}

/// In the order of [`Rule::ALL`].
fn teeth() -> Vec<Tooth> {
    use Rule::*;
    let tooth = |(rule, by)| Tooth { rule, by };
    [
        (EveryMemberHolds, Walk(8, ANY)),
        (HoldersAreQuorum, Scene(scenes::a_winner_is_alone_in_its_view, scenes::three)),
        (CommitReachesView, Scene(scenes::an_older_epochs_entry_is_held_by_the_new_view, scenes::three)),
        (OwnEntriesDurable, Walk(3, ANY)),
        (AcknowledgedDurable, Scene(scenes::a_backup_dies_while_it_writes_the_view, scenes::unordered)),
        (AcknowledgedInEpoch, Scene(scenes::an_acknowledgement_of_an_earlier_term_comes_late, scenes::five)),
        (CommitOnlyVerified, Walk(23, ANY)),
        (RefuseOldEntries, Walk(267, ANY)),
        (PromiseDurable, Scene(scenes::a_voter_dies_and_comes_back, scenes::unordered)),
        (LogComparison, Walk(8, ANY)),
        (VoteForThisEpoch, Scene(scenes::votes_of_an_earlier_candidacy_come_late, scenes::three)),
        (EveryViewInForce, Walk(25, DEATHS)),
        (MajorityForLive, Walk(5, DEATHS)),
        (HalfWithPrimary, Scene(scenes::a_pair_is_parted, scenes::two)),
        (ProofForLive, Walk(21, DEATHS)),
        (ConflictsCutBack, Walk(5, ANY)),
        (WaitForLeases, Walk(18, DEATHS)),
        (GrantOnNewestView, Scene(scenes::one_left_out_is_about_to_be_taken_in, scenes::three)),
        (LeaseWithDrift, Walk(334, CLOCKS)),
        (LeaseFromSending, Walk(110, CLOCKS)),
        (LeaseBeforeRefusal, Walk(133, DEATHS)),
        (SeveralRefusals, Scene(scenes::sessions_end_and_one_dial_is_refused, scenes::two)),
        (SessionsEnded, Scene(scenes::dials_are_refused_and_a_session_lasts, scenes::two)),
        (NobodyInContact, Scene(scenes::one_link_has_a_firewall_in_it, scenes::three)),
        (SuccessorsViewsNameMe, Walk(133, DEATHS)),
        (GoodbyeForEver, Scene(scenes::one_that_said_goodbye_sees_the_others_die, scenes::three)),
        (FenceWithinLease, Scene(scenes::a_fence_comes_after_the_lease, scenes::two)),
        (ReadUnderLeases, Walk(23, ANY)),
        (ReadInCommittedView, Walk(416, DEATHS)),
        (DiskIdentity, Walk(3, DISKS)),
        (StaleRunsRefused, Scene(scenes::a_disk_that_was_rolled_back_meets_a_stale_one, scenes::three)),
        (SameCluster, Scene(scenes::a_disk_of_another_cluster_is_plugged_in, scenes::three)),
        (FoundOnEmptyDisks, Scene(scenes::the_founders_disk_is_replaced, scenes::three)),
        (MinCopies, Scene(scenes::fewer_copies_than_wanted_are_left, scenes::two_copies)),
        (ImpairedHasNoVote, Scene(scenes::a_damaged_disk_and_a_stale_one_meet, scenes::three)),
        (RepairedWhenWhole, Scene(scenes::a_damaged_disk_is_half_repaired, scenes::three)),
    ]
    .map(tooth)
    .into()
}

/// The words of the simulation's checks, and of the replica's and the disk's own, for what must never be.
const BROKEN: &[&str] = &[
    "HISTORY FORKS",
    "TWO PRIMARIES",
    "STALE READ",
    "FATAL",
    "FALSE PROOF",
    "TOO FEW COPIES",
    "committed entry",
    "not everything reaches everybody",
    "the chain holds on disk",
    "gapless",
];

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Tooth {
    /// Whether the tooth's run breaks, and in what words.
    fn bites(&self, seed: u64, rules: Rules, trace: bool) -> Option<String> {
        let run = || match &self.by {
            Walk(_, character) => {
                let character = Character { rules: Some(rules), ..*character };
                walk_as(&character, seed, trace, &mut |world| show(world, trace));
            }
            Scene(scene, settings) => {
                let mut world = World::new(Settings { rules, seed, ..settings(rules) });
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scene(&mut world))) {
                    show(&world, trace);
                    resume_unwind(panic);
                }
            }
        };
        let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
        let text = panic.downcast_ref::<String>().cloned();
        Some(text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default())
    }

    /// The first seed that finds it, the recorded one first.
    fn find(&self, off: Rules, tries: u64) -> Option<(u64, String)> {
        let recorded = if let Walk(seed, _) = self.by { seed } else { 1 };
        let mut seeds = std::iter::once(recorded).chain(1..=tries);
        seeds.find_map(|seed| {
            let words = self.bites(seed, off, false)?;
            BROKEN.iter().any(|broken| words.contains(broken)).then_some((seed, words))
        })
    }
}

fn show(world: &World, trace: bool) {
    if trace {
        println!("{}", world.tail(60));
    }
}

/// What is wrong with this tooth, if anything.
fn examine(tooth: &Tooth) -> Result<(), String> {
    let (rule, off) = (tooth.rule, Rules::without(&[tooth.rule]));
    let record = environment("RECORD").is_some();
    let tries = environment("TRIES").and_then(|tries| tries.parse().ok()).unwrap_or(if record { 3000 } else { 1000 });
    let Some((seed, words)) = tooth.find(off, tries) else {
        return Err(format!("{rule:?} is switched off, and {tries} runs do not notice"));
    };
    let words = words.replace('\n', " ");
    println!("{rule:?}: seed {seed}: {words}");
    if environment("SHOW").is_some_and(|show| show == format!("{rule:?}")) {
        tooth.bites(seed, off, true);
    }
    if let Some(words) = tooth.bites(seed, Rules::ALL, false) {
        return Err(format!("{rule:?}: seed {seed} fails with all rules: {words}"));
    }
    match tooth.by {
        Walk(recorded, _) if recorded != seed && !record => {
            println!("{rule:?}: record seed {seed}; {recorded} does not find it any more");
        }
        _ => {}
    }
    Ok(())
}

#[test]
fn every_rule_is_missed_when_it_is_switched_off() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let only = environment("ONLY").unwrap_or_default();
    let (teeth, next, wrong) = (teeth(), AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    assert!(teeth.iter().map(|tooth| &tooth.rule).eq(Rule::ALL), "each rule has a tooth");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(tooth) = teeth.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if only.is_empty() || only.split(',').any(|only| only == format!("{:?}", tooth.rule)) {
                        let result = examine(tooth);
                        wrong.lock().expect("no holder panics").extend(result.inspect_err(|w| println!("{w}")).err());
                    }
                }
            });
        }
    });
    std::panic::set_hook(hook);
    let wrong = wrong.into_inner().expect("no holder panics");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
