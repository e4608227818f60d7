//! Each rule that carries safety, switched off: the search must then find what breaks. With all rules the same run finds nothing.
//!
//! A tooth is a random walk with a recorded seed, or a scripted scene. It bites when a promise is broken: what is only late does not
//! count, nor does a panic. Seeds shift when the simulation changes: the test then
//! searches on, and `RECORD=1 cargo test -p chat-testkit --test teeth -- --nocapture` prints the seeds to record.
//! `SHOW=LogComparison` prints the end of that rule's trace; `TRIES` says how many seeds are tried.

use chat_replica::protocol::{Rule, Rules};
use chat_testkit::simulation::walk::Plan;
use chat_testkit::simulation::weather::Fault;
use chat_testkit::simulation::world::{Settings, World};
use chat_testkit::simulation::{Broken, MS, Violation};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

mod scenes;

/// What a walk is to be like, beyond what its seed decides.
type Character = fn(&mut Plan);

/// What finds that a rule is missing.
enum By {
    /// A random walk of this character; found at this seed when it was recorded.
    Walk(u64, Character),
    /// A scripted world, in which something is lost. It gets through with all rules.
    Scene(fn(&mut World), fn(Rules) -> Settings),
}
use By::*;

struct Tooth {
    rule: Rule,
    by: By,
}

/// As its seed says.
const ANY: Character = |_| {};

/// Disks are damaged, replaced and rolled back.
const DISKS: Character = |plan| {
    three(&mut plan.settings);
    plan.weather.set(Fault::Disk, 30);
};

/// Many die, some in silence, soon after each other.
const DEATHS: Character = |plan| {
    three(&mut plan.settings);
    let often = [(Fault::Kill, 20), (Fault::KillAll, 10), (Fault::Isolate, 12), (Fault::Heal, 12), (Fault::Bounce, 10)];
    often.into_iter().for_each(|(fault, weight)| plan.weather.set(fault, weight));
    plan.weather.pause = 600 * MS;
};

fn three(settings: &mut Settings) {
    settings.n = 3;
    settings.min_copies = 1;
    settings.refusal_is_proof = true;
}

/// In the order of [`Rule::ALL`].
fn teeth() -> Vec<Tooth> {
    use Rule::*;
    let tooth = |(rule, by)| Tooth { rule, by };
    [
        (EveryMemberHolds, Walk(94, ANY)),
        (HoldersAreQuorum, Scene(scenes::commits::a_winner_is_alone_in_its_view, scenes::three)),
        (CommitReachesView, Scene(scenes::commits::an_older_epochs_entry_is_held_by_the_new_view, scenes::three)),
        (OwnEntriesDurable, Walk(6, ANY)),
        (AcknowledgedDurable, Scene(scenes::commits::a_backup_dies_while_it_writes_the_view, scenes::unordered)),
        (AcknowledgedInEpoch, Scene(scenes::commits::an_acknowledgement_of_an_earlier_term_comes_late, scenes::five)),
        (CommitOnlyVerified, Walk(123, ANY)),
        (RefuseOldEntries, Walk(123, ANY)),
        (PromiseDurable, Scene(scenes::elections::a_voter_dies_and_comes_back, scenes::unordered)),
        (OwnVoteDurable, Scene(scenes::elections::one_stands_and_wins_in_one_turn, scenes::three)),
        (LogComparison, Walk(2, ANY)),
        (VoteForThisEpoch, Scene(scenes::elections::votes_of_an_earlier_candidacy_come_late, scenes::three)),
        (EveryViewInForce, Walk(67, DEATHS)),
        (MajorityForLive, Walk(1, DEATHS)),
        (HalfWithPrimary, Scene(scenes::elections::a_pair_is_parted, scenes::two)),
        (ProofForLive, Walk(21, DEATHS)),
        (ConflictsCutBack, Walk(2, ANY)),
        (WaitForLeases, Walk(67, DEATHS)),
        (GrantOnNewestView, Scene(scenes::leases::one_left_out_is_about_to_be_taken_in, scenes::three)),
        (LeaseWithDrift, Scene(scenes::leases::one_with_a_faster_clock_takes_over, scenes::clocks)),
        (LeaseFromSending, Scene(scenes::leases::answers_to_pings_take_long, scenes::three)),
        (LeaseBeforeRefusal, Scene(scenes::proof::refusals_come_after_the_lease, scenes::three)),
        (SeveralRefusals, Scene(scenes::proof::sessions_end_and_one_dial_is_refused, scenes::two)),
        (SessionsEnded, Scene(scenes::proof::dials_are_refused_and_a_session_lasts, scenes::two)),
        (NobodyInContact, Scene(scenes::proof::one_link_has_a_firewall_in_it, scenes::three)),
        (SuccessorsViewsNameMe, Scene(scenes::proof::successors_come_back_to_one_left_out, scenes::three)),
        (GoodbyeForEver, Scene(scenes::proof::one_that_said_goodbye_sees_the_others_die, scenes::three)),
        (FenceWithinLease, Scene(scenes::proof::a_fence_comes_after_the_lease, scenes::two)),
        (ReadUnderLeases, Walk(123, ANY)),
        (ReadInCommittedView, Scene(scenes::leases::a_primary_proposes_a_view_of_itself, scenes::three)),
        (DiskIdentity, Walk(11, DISKS)),
        (StaleRunsRefused, Scene(scenes::disks::a_disk_that_was_rolled_back_meets_a_stale_one, scenes::three)),
        (SameCluster, Scene(scenes::disks::a_disk_of_another_cluster_is_plugged_in, scenes::three)),
        (FoundOnEmptyDisks, Scene(scenes::disks::the_founders_disk_is_replaced, scenes::three)),
        (MinCopies, Scene(scenes::commits::fewer_copies_than_wanted_are_left, scenes::two_copies)),
        (ImpairedHasNoVote, Scene(scenes::disks::a_damaged_disk_and_a_stale_one_meet, scenes::three)),
        (RepairedWhenWhole, Scene(scenes::disks::a_damaged_disk_is_half_repaired, scenes::three)),
    ]
    .map(tooth)
    .into()
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Tooth {
    /// The promise that the tooth's run breaks, if it does.
    fn bites(&self, seed: u64, rules: Rules, trace: bool) -> Option<Violation> {
        let show = |world: &World| {
            if trace {
                println!("{}\n{}", world.tail(120), world.describe());
            }
        };
        match &self.by {
            Walk(_, character) => {
                let mut plan = Plan::of(seed);
                character(&mut plan);
                plan.settings.rules = rules;
                plan.settings.trace = trace;
                plan.walk(&mut |world| show(world)).err()
            }
            Scene(scene, settings) => {
                let mut world = World::new(Settings { seed, strict: false, trace, ..settings(rules) });
                let through = catch_unwind(AssertUnwindSafe(|| scene(&mut world)));
                if let (None, Err(panic)) = (world.violation(), through) {
                    let text = panic.downcast_ref::<String>().cloned();
                    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                    world.violate(Broken::Panic, "the scene", text.unwrap_or_default());
                }
                show(&world);
                world.violation().cloned()
            }
        }
    }

    /// The first seed that finds it, the recorded one first. What is only late is no loss.
    fn find(&self, off: Rules, tries: u64) -> Option<Violation> {
        let (recorded, tries) = match self.by {
            Walk(seed, _) => (seed, tries),
            Scene(..) => (1, tries.min(20)),
        };
        let mut seeds = std::iter::once(recorded).chain(1..=tries);
        seeds.find_map(|seed| self.bites(seed, off, false).filter(|violation| violation.broken.is_unsafe()))
    }
}

/// What is wrong with this tooth, if anything.
fn examine(tooth: &Tooth) -> Result<(), String> {
    let (rule, off) = (tooth.rule, Rules::without(&[tooth.rule]));
    let record = environment("RECORD").is_some();
    let tries = environment("TRIES").and_then(|tries| tries.parse().ok()).unwrap_or(if record { 3000 } else { 1000 });
    let shown = environment("SHOW").is_some_and(|show| show == format!("{rule:?}"));
    let Some(violation) = tooth.find(off, tries) else {
        if shown {
            tooth.bites(1, off, true);
        }
        return Err(format!("{rule:?} is switched off, and {tries} runs do not notice"));
    };
    let seed = violation.seed;
    println!("{rule:?}: {:?}: {}", violation.broken, violation.to_string().replace('\n', " "));
    if shown {
        tooth.bites(seed, off, true);
    }
    if let Some(violation) = tooth.bites(seed, Rules::ALL, false) {
        return Err(format!("{rule:?}: seed {seed} fails with all rules: {violation}"));
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
