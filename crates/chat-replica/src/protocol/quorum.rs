//! Rule 4: who may act on behalf of a view.

use super::rules::{Rule, Rules};
use super::types::{Member, View};

/// Whether `candidate`, holding `votes`, may act on behalf of `view`.
///
/// `votes` are process runs whose disks have spoken, the candidate's own among them once it is durable. `proven`
/// says whether the candidate holds proof (rule 8) that a process run crashed.
pub fn quorum(
    view: &View,
    candidate: &Member,
    votes: &[Member],
    proven: impl Fn(&Member) -> bool,
    rules: Rules,
) -> bool {
    let disk_voted = |m: &Member| has_spoken(m, votes, rules);
    let voted = view.members.iter().filter(|m| disk_voted(m)).count();
    // All its members voted, whatever their incarnation. An empty view would be everybody's: it is nobody's.
    if voted == view.members.len() {
        return voted > 0;
    }
    // The rest is for live members only: a restarted process does not know what its predecessor's view went on to do (rule 9).
    let live = view.names(candidate);
    let with_primary = view.member(view.primary).is_some_and(disk_voted) || !rules.hold(Rule::HalfWithPrimary);
    let majority = 2 * voted > view.members.len() || (2 * voted == view.members.len() && with_primary);
    if majority && (live || !rules.hold(Rule::MajorityForLive)) {
        return true;
    }
    (live || !rules.hold(Rule::ProofForLive)) && view.members.iter().all(|m| disk_voted(m) || proven(m))
}

/// Whether the disk of `member` is among those that spoke (rules 1, 4, 12).
pub fn has_spoken(member: &Member, votes: &[Member], rules: Rules) -> bool {
    votes.iter().any(|v| v.same_disk(member) || (!rules.hold(Rule::DiskIdentity) && v.id == member.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::types::{DiskId, Epoch, Incarnation, ReplicaId};

    fn member(id: u32, count: u64) -> Member {
        Member { id: ReplicaId(id), disk: DiskId([id as u8; 16]), incarnation: Incarnation { count, nonce: 7 } }
    }

    fn view(primary: u32, members: &[Member]) -> View {
        View { epoch: Epoch::ZERO, primary: ReplicaId(primary), members: members.to_vec() }
    }

    const ALL: Rules = Rules::ALL;
    const NONE: fn(&Member) -> bool = |_| false;

    #[test]
    fn a_live_majority_suffices_a_restarted_one_does_not() {
        let (a, b, c) = (member(1, 1), member(2, 1), member(3, 1));
        let three = view(1, &[a, b, c]);
        assert!(quorum(&three, &b, &[b, c], NONE, ALL), "two live members of three are a majority");
        let restarted = member(2, 2);
        assert!(
            !quorum(&three, &restarted, &[restarted, c], NONE, ALL),
            "rule 9: a restarted candidate needs every vote"
        );
        assert!(quorum(&three, &restarted, &[restarted, a, c], NONE, ALL), "every disk has spoken");
        assert!(quorum(&three, &c, &[restarted, c], NONE, ALL), "a restarted voter's disk counts for a live candidate");
    }

    #[test]
    fn half_needs_the_primary_or_proof() {
        let (a, b) = (member(1, 1), member(2, 1));
        let pair = view(1, &[a, b]);
        assert!(quorum(&pair, &a, &[a], NONE, ALL), "the primary of a pair is its half that goes on");
        assert!(!quorum(&pair, &b, &[b], NONE, ALL), "the other half waits");
        assert!(quorum(&pair, &b, &[b], |m| *m == a, ALL), "or proves the primary crashed");
    }

    #[test]
    fn alone_of_three_needs_proof_of_both() {
        let (a, b, c) = (member(1, 1), member(2, 1), member(3, 1));
        let three = view(1, &[a, b, c]);
        assert!(!quorum(&three, &c, &[c], |m| *m == a, ALL), "one proof is not two");
        assert!(quorum(&three, &c, &[c], |m| *m == a || *m == b, ALL), "both proven crashed");
        let replaced = Member { disk: DiskId([9; 16]), ..b };
        assert!(
            !quorum(&three, &member(3, 2), &[a, replaced, member(3, 2)], NONE, ALL),
            "another disk is no vote (rule 12)"
        );
        assert!(!quorum(&view(1, &[]), &a, &[a], NONE, ALL), "an empty view is nobody's");
    }
}
