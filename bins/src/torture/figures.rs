//! What was done, and what came of it.

use crate::bench::{Times, ms};
use chat_check::{Property, Report};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Counted over a whole run.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub kills: u64,
    pub starts: u64,
    pub pauses: u64,
    pub rounds: u64,
    pub acknowledged: u64,
    /// How often the last of three had no leases any more when it was left alone, and waited.
    pub waited: u64,
    /// Steps by title: for how long nobody was answered, and how long after everything was mended somebody was.
    steps: BTreeMap<String, Vec<(Duration, Duration)>>,
    /// How often a process ended at each point, and how often one was told to.
    points: BTreeMap<&'static str, (u64, u64)>,
    /// What cannot be done here, and why.
    skipped: BTreeMap<String, String>,
    judged: Judged,
    complaints: BTreeMap<Property, usize>,
}

#[derive(Debug, Default)]
struct Judged {
    calls: usize,
    unknown: usize,
    deliveries: usize,
    kept: usize,
}

impl Figures {
    pub fn step(&mut self, title: String, gap: Duration, back: Duration) {
        self.steps.entry(title).or_default().push((gap, back));
    }

    /// A process was told to end at this point, and did or did not pass it.
    pub fn point(&mut self, name: &'static str, hit: bool) {
        let (hits, told) = self.points.entry(name).or_default();
        *hits += u64::from(hit);
        *told += 1;
    }

    pub fn hits(&self, name: &str) -> u64 {
        self.points.get(name).map_or(0, |(hits, _)| *hits)
    }

    pub fn skip(&mut self, what: &str, why: String) {
        self.skipped.insert(what.to_owned(), why);
    }

    pub fn judged(&mut self, report: &Report) {
        self.judged.calls += report.judged.calls;
        self.judged.unknown += report.judged.unknown;
        self.judged.deliveries += report.judged.deliveries;
        self.judged.kept += report.judged.kept;
        for complaint in report.complaints() {
            *self.complaints.entry(complaint.property).or_default() += 1;
        }
    }

    fn complaints(&self, properties: &[Property]) -> usize {
        properties.iter().filter_map(|property| self.complaints.get(property)).sum()
    }

    /// Names of what the checkers can complain of, with the numbers of complaints.
    fn verdicts(&self) -> [(&'static str, usize); 5] {
        [
            ("lost", self.complaints(&[Property::Acknowledged])),
            ("doubled", self.complaints(&[Property::Duplicates])),
            ("out of order", self.complaints(&[Property::ClientOrder, Property::Gapless])),
            ("replicas differ", self.complaints(&[Property::Replicas])),
            ("otherwise wrong", self.complaints(&[Property::WellFormed, Property::Linearizable, Property::Deletion])),
        ]
    }

    /// One line for somebody who waits.
    pub fn line(&self, elapsed: Duration, acknowledged: u64) -> String {
        let (kills, starts, rounds) = (self.kills, self.starts, self.rounds);
        let ends: u64 = self.points.values().map(|(hits, _)| hits).sum();
        let seconds = elapsed.as_secs();
        format!(
            "{seconds:>5} s: {kills} kill -9, {ends} ends at points, {starts} starts; {acknowledged} sends acknowledged; {rounds} rounds judged"
        )
    }

    pub fn table(&self) -> String {
        let mut rows = Table::new();
        rows.load_style(presets::NOTHING);
        rows.set_header(["WHAT WAS DONE", "TIMES", "NO ANSWER: MEDIAN", "MAX", "AFTER MENDING: MEDIAN", "MAX"]);
        for (title, times) in &self.steps {
            let (gaps, backs) = split(times);
            let of = |times: &Times, part| format!("{:.0} ms", ms(times.at(part)));
            let count = times.len().to_string();
            rows.add_row([title.clone(), count, of(&gaps, 0.5), of(&gaps, 1.0), of(&backs, 0.5), of(&backs, 1.0)]);
        }
        let mut points = Table::new();
        points.load_style(presets::NOTHING);
        points.set_header(["POINT", "ENDED THERE", "TOLD TO"]);
        for (name, (hits, told)) in &self.points {
            points.add_row([(*name).to_owned(), hits.to_string(), told.to_string()]);
        }
        for table in [&mut rows, &mut points] {
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = rows.trim_fmt();
        if !self.points.is_empty() {
            text += &format!("\n\n{}", points.trim_fmt());
        }
        let Figures { kills, starts, pauses, rounds, acknowledged, .. } = self;
        let Judged { calls, unknown, deliveries, kept } = &self.judged;
        let ends: u64 = self.points.values().map(|(hits, _)| hits).sum();
        text += &format!(
            "\n\n{kills} kill -9, {ends} ends at named points, {starts} starts, {pauses} pauses\n\
             {acknowledged} sends acknowledged; judged in {rounds} rounds: {calls} calls ({unknown} of unknown outcome), \
             {deliveries} deliveries, {kept} messages at replicas\n"
        );
        text += &self.verdicts().map(|(name, count)| format!("{name}: {count}")).join(", ");
        if self.waited > 0 {
            text += &format!("\n{} times the last of three waited for the others: its leases had run out", self.waited);
        }
        for (what, why) in &self.skipped {
            text += &format!("\nskipped: {what}: {why}");
        }
        text
    }

    pub fn json(&self) -> serde_json::Value {
        let step = |(title, times): (&String, &Vec<(Duration, Duration)>)| {
            let (gaps, backs) = split(times);
            json!({
                "step": title, "times": times.len(),
                "gap_ms": { "median": ms(gaps.at(0.5)), "max": ms(gaps.at(1.0)) },
                "back_ms": { "median": ms(backs.at(0.5)), "max": ms(backs.at(1.0)) },
            })
        };
        let point = |(name, (hits, told)): (&&str, &(u64, u64))| json!({ "point": name, "ended": hits, "told": told });
        let verdicts = self.verdicts();
        json!({
            "kills": self.kills, "starts": self.starts, "pauses": self.pauses, "rounds": self.rounds,
            "waited": self.waited, "acknowledged": self.acknowledged, "calls": self.judged.calls, "unknown": self.judged.unknown,
            "deliveries": self.judged.deliveries, "held": self.judged.kept,
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "points": self.points.iter().map(point).collect::<Vec<_>>(),
            "verdicts": verdicts.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect::<serde_json::Map<_, _>>(),
            "skipped": self.skipped,
        })
    }
}

fn split(times: &[(Duration, Duration)]) -> (Times, Times) {
    let (gaps, backs) = times.iter().copied().unzip();
    (Times::of(gaps), Times::of(backs))
}
