//! The clauses of docs/protocol.md that carry safety, by name, and the one place where it is decided whether they hold.
//!
//! In every normal build all of them do, by a constant. With the cargo feature `weakened`, which only the tests of
//! `chat-testkit` turn on, [`Rules::without`] makes a replica that breaks some: a search that does not notice is no search.

/// A clause that carries safety. Each says what breaks without it; docs/protocol.md tells which test shows that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// Rule 1, every member of the newest view holds an entry before it commits. Otherwise the one that survives lacks it.
    EveryMemberHolds,
    /// Rule 1, the holders are a quorum of every view in force. Otherwise a primary that others have left behind goes on alone.
    HoldersAreQuorum,
    /// Rule 1, a commit reaches the newest view, and so an entry of its primary's own epoch. Otherwise what an earlier epoch
    /// left behind commits, and a log with a later epoch cuts it back.
    CommitReachesView,
    /// Rule 1, the primary's own log counts once it is durable. Otherwise a crash takes what was acknowledged.
    OwnEntriesDurable,
    /// Rule 1, a follower acknowledges once the entries are durable. Otherwise a crash takes what was acknowledged.
    AcknowledgedDurable,
    /// Rule 1, an acknowledgement counts in the epoch in which it was given. Otherwise it stands for entries cut back since.
    AcknowledgedInEpoch,
    /// Rule 1, a follower commits only what is known equal to the primary's log. Otherwise a tail that conflicts commits.
    CommitOnlyVerified,
    /// Rule 2, entries of an epoch below the promise are refused. Otherwise two primaries commit.
    RefuseOldEntries,
    /// Rule 2, a promise is durable before it is given. Otherwise a restarted voter votes twice.
    PromiseDurable,
    /// Rule 2, a candidate's own vote counts once it is durable. Otherwise it leads, dies, and may lead in the same epoch again.
    OwnVoteDurable,
    /// Rule 3, a vote only for a log at least as long. Otherwise the winner lacks a committed entry.
    LogComparison,
    /// Rule 3, a vote counts for the candidacy that asked. Otherwise a candidate wins with votes that were withdrawn since.
    VoteForThisEpoch,
    /// Rule 4, every view in force rather than the newest. Otherwise a proposal that never committed is enough to elect.
    EveryViewInForce,
    /// Rules 4 and 9, a majority elects a live member only. Otherwise two restarted processes outvote the one that went on alone.
    MajorityForLive,
    /// Rule 4, exactly half only with the view's primary. Otherwise both halves of a pair go on.
    HalfWithPrimary,
    /// Rules 4 and 9, proof is of use to a live member only. Otherwise a restarted process takes over from what it was, not
    /// knowing what its predecessor's view went on to do.
    ProofForLive,
    /// Rule 5, conflicting tails are cut back. Otherwise a member acknowledges what it does not hold.
    ConflictsCutBack,
    /// Rule 7, nobody is left out while a lease runs. Otherwise the one left out takes refusals for proof.
    WaitForLeases,
    /// Rule 7, a lease only for a ping with the grantor's newest view. Otherwise one that was left out meanwhile holds a lease.
    GrantOnNewestView,
    /// Rule 7, the grantor waits T(1+drift). Otherwise a slower clock still trusts a lease that has run out.
    LeaseWithDrift,
    /// Rule 7, the holder counts from when it sent its ping. Otherwise a slow answer makes the lease longer than was promised.
    LeaseFromSending,
    /// Rule 8, refusals prove only while the lease has not run out. Otherwise one that was left out takes over.
    LeaseBeforeRefusal,
    /// Rule 8, several refusals. Otherwise one that somebody forged, or a listener's hiccup, proves a crash.
    SeveralRefusals,
    /// Rule 8, its sessions with me have ended. Otherwise a process that speaks is proven crashed.
    SessionsEnded,
    /// Rule 8, no peer that I reach is in contact with it. Otherwise one link with a firewall in it proves a crash.
    NobodyInContact,
    /// Rule 8, a successor's word counts if every view that I lack names me. Otherwise it is taken for proof that nothing was
    /// written without me.
    SuccessorsViewsNameMe,
    /// Rule 8, whoever said goodbye stands no more. Otherwise it takes over with leases that nobody waited for.
    GoodbyeForEver,
    /// Rule 8, a fence proves only while the lease runs. Otherwise the fenced one has written alone before.
    FenceWithinLease,
    /// Rule 11, reads under leases of all other members. Otherwise a deposed primary answers from the past.
    ReadUnderLeases,
    /// Rule 11, those members are of a committed view. Otherwise a primary that was deposed reads in a view that it only proposed.
    ReadInCommittedView,
    /// Rule 12, a disk is told by its id. Otherwise an empty disk votes as the one that it replaced.
    DiskIdentity,
    /// Rule 12, process runs that their disk has left behind are not listened to. Otherwise a disk that was rolled back votes.
    StaleRunsRefused,
    /// Rule 12, messages of another cluster are refused. Otherwise a disk of another cluster forces its log on this one.
    SameCluster,
    /// Rule 12, a cluster is founded on empty disks only. Otherwise an empty disk founds another among those that hold messages.
    FoundOnEmptyDisks,
    /// Rule 13, writes are refused with fewer members than `min_copies`. Otherwise they are acknowledged on fewer disks.
    MinCopies,
    /// Rule 15, an impaired disk has no vote, and is no copy. Otherwise it votes for a log without what it had acknowledged.
    ImpairedHasNoVote,
    /// Rule 15, an impaired disk counts again when it holds what it held. Otherwise it votes without.
    RepairedWhenWhole,
}

/// All rules, or in weakened builds those that are not switched off. Of no size in normal builds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rules {
    #[cfg(feature = "weakened")]
    off: u64,
}

#[cfg(not(feature = "weakened"))]
impl Rules {
    /// All of them.
    pub const ALL: Rules = Rules {};

    /// Every rule holds.
    pub const fn hold(self, _: Rule) -> bool {
        true
    }
}

#[cfg(feature = "weakened")]
impl Rules {
    /// All of them.
    pub const ALL: Rules = Rules { off: 0 };

    /// Whether this one is not switched off.
    pub const fn hold(self, rule: Rule) -> bool {
        self.off & (1 << rule as u64) == 0
    }

    /// All rules but these.
    pub fn without(rules: &[Rule]) -> Rules {
        Rules { off: rules.iter().fold(0, |off, rule| off | 1 << *rule as u64) }
    }
}

#[cfg(feature = "weakened")]
impl Rule {
    /// Every rule that can be switched off.
    pub const ALL: &[Rule] = {
        use Rule::*;
        &[
            EveryMemberHolds,
            HoldersAreQuorum,
            CommitReachesView,
            OwnEntriesDurable,
            AcknowledgedDurable,
            AcknowledgedInEpoch,
            CommitOnlyVerified,
            RefuseOldEntries,
            PromiseDurable,
            OwnVoteDurable,
            LogComparison,
            VoteForThisEpoch,
            EveryViewInForce,
            MajorityForLive,
            HalfWithPrimary,
            ProofForLive,
            ConflictsCutBack,
            WaitForLeases,
            GrantOnNewestView,
            LeaseWithDrift,
            LeaseFromSending,
            LeaseBeforeRefusal,
            SeveralRefusals,
            SessionsEnded,
            NobodyInContact,
            SuccessorsViewsNameMe,
            GoodbyeForEver,
            FenceWithinLease,
            ReadUnderLeases,
            ReadInCommittedView,
            DiskIdentity,
            StaleRunsRefused,
            SameCluster,
            FoundOnEmptyDisks,
            MinCopies,
            ImpairedHasNoVote,
            RepairedWhenWhole,
        ]
    };
}

#[cfg(all(test, feature = "weakened"))]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_switched_off_does_not_hold() {
        for off in Rule::ALL {
            let rules = Rules::without(&[*off]);
            assert!(Rule::ALL.iter().all(|rule| rules.hold(*rule) == (rule != off)), "{off:?}");
            assert!(Rules::ALL.hold(*off));
        }
    }

    #[test]
    fn the_list_is_complete() {
        let last = Rule::RepairedWhenWhole as usize;
        assert!(Rule::ALL.iter().enumerate().all(|(at, rule)| *rule as usize == at) && Rule::ALL.len() == last + 1);
    }
}
