//! Moments that must come one after another, each within bounds.
//!
//! If no moment has to come before itself, and each can be as early as its own bound and all that comes before it
//! allow, without passing its latest bound, then there is an order of everything, and otherwise there is none.

use crate::history::{CallId, Micros};

/// A moment's number.
pub(super) type Node = u32;

/// Whose moment it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// A message takes its place: its number in the places.
    Send(usize),
    /// A message that nobody saw takes its place in the mailbox of this account.
    Unseen(usize, u64),
    /// A call that changes nothing looks.
    Look(CallId),
    /// The `delivered` or `read` mark of this account's mailbox comes here.
    Mark(usize, u64),
    /// This account is registered.
    Register(usize),
    /// This account is deleted.
    Delete(usize),
}

/// A bound, and the call that sets it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound(pub Micros, pub Option<CallId>);

impl Bound {
    pub const NEVER_BEFORE: Bound = Bound(0, None);
    pub const NO_LATEST: Bound = Bound(Micros::MAX, None);
}

pub(super) struct Moment {
    pub what: What,
    pub earliest: Bound,
    pub latest: Bound,
}

#[derive(Default)]
pub(super) struct Graph {
    pub moments: Vec<Moment>,
    edges: Vec<(Node, Node)>,
}

/// Why there is no order.
pub(super) enum Problem {
    /// `node` can only come after its latest bound, because of the earliest bound of `cause`.
    TooLate { node: Node, cause: Node },
    /// These would each have to come before the next, and the last before the first.
    Circle(Vec<Node>),
}

impl Graph {
    pub fn add(&mut self, what: What, earliest: Bound, latest: Bound) -> Node {
        self.moments.push(Moment { what, earliest, latest });
        Node::try_from(self.moments.len() - 1).unwrap_or(Node::MAX)
    }

    pub fn before(&mut self, first: Node, second: Node) {
        self.edges.push((first, second));
    }

    pub fn moment(&self, node: Node) -> &Moment {
        &self.moments[node as usize]
    }

    /// All moments that come too late, and one circle if there is any. Linear in moments and edges.
    pub fn problems(&self) -> Vec<Problem> {
        let (starts, targets) = self.forward();
        let mut open = vec![0u32; self.moments.len()];
        self.edges.iter().for_each(|&(_, second)| open[second as usize] += 1);
        let mut ready: Vec<Node> = (0..self.moments.len() as Node).filter(|&node| open[node as usize] == 0).collect();
        let mut at: Vec<Micros> = self.moments.iter().map(|moment| moment.earliest.0).collect();
        let mut cause: Vec<Node> = (0..self.moments.len() as Node).collect();
        let mut problems = Vec::new();
        while let Some(node) = ready.pop() {
            let place = node as usize;
            let latest = self.moments[place].latest.0;
            if at[place] > latest {
                problems.push(Problem::TooLate { node, cause: cause[place] });
                // What follows is not to blame for it.
                at[place] = latest;
            }
            for &next in &targets[starts[place]..starts[place + 1]] {
                let next_place = next as usize;
                if at[place] > at[next_place] {
                    (at[next_place], cause[next_place]) = (at[place], cause[place]);
                }
                open[next_place] -= 1;
                if open[next_place] == 0 {
                    ready.push(next);
                }
            }
        }
        problems.extend(self.circle(&open));
        problems
    }

    /// For each moment where its followers begin, and all followers.
    fn forward(&self) -> (Vec<usize>, Vec<Node>) {
        let mut starts = vec![0usize; self.moments.len() + 1];
        self.edges.iter().for_each(|&(first, _)| starts[first as usize + 1] += 1);
        (1..starts.len()).for_each(|place| starts[place] += starts[place - 1]);
        let (mut next, mut targets) = (starts.clone(), vec![0; self.edges.len()]);
        for &(first, second) in &self.edges {
            targets[next[first as usize]] = second;
            next[first as usize] += 1;
        }
        (starts, targets)
    }

    /// Going back from any moment that never became ready, a moment comes up again.
    fn circle(&self, open: &[u32]) -> Option<Problem> {
        let mut before = vec![None; open.len()];
        for &(first, second) in &self.edges {
            if open[first as usize] > 0 && open[second as usize] > 0 {
                before[second as usize] = Some(first);
            }
        }
        let mut node = open.iter().position(|&open| open > 0)? as Node;
        let mut path: Vec<Node> = Vec::new();
        let mut met = vec![false; open.len()];
        while !met[node as usize] {
            met[node as usize] = true;
            path.push(node);
            node = before[node as usize]?;
        }
        let start = path.iter().position(|&other| other == node)?;
        Some(Problem::Circle(path.split_off(start)))
    }
}
