//! What a script says: a line per step, a table, a verdict.

use crate::processes::Broken;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A script's report. Several clusters may report to it side by side.
pub(super) struct Report {
    script: &'static str,
    json: bool,
    begun: Instant,
    /// By what happened.
    gaps: Mutex<BTreeMap<String, Vec<Duration>>>,
}

impl Report {
    pub fn new(script: &'static str, json: bool) -> Self {
        Self { script, json, begun: Instant::now(), gaps: Mutex::default() }
    }

    /// `what` happened in `run`, and for `gap` nothing was acknowledged. `kind` is the row of the table where it counts.
    pub fn step(&self, run: &str, what: &str, kind: &str, gap: Duration) {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        gaps.entry(kind.to_owned()).or_default().push(gap);
        let ms = milliseconds(gap);
        if self.json {
            let step = json!({ "script": self.script, "run": run, "step": what, "kind": kind, "gap_ms": ms });
            print(&step.to_string());
        } else {
            print(&format!("{run:<36}  {what:<48} acknowledged after {ms:>7.1} ms"));
        }
    }

    /// The table and the verdict. `kept`: where data and logs are left.
    pub fn conclude(self, result: Result<String, Broken>, kept: Option<&str>) -> ExitCode {
        let gaps = self.gaps.into_inner().unwrap_or_else(PoisonError::into_inner);
        let seconds = self.begun.elapsed().as_secs_f64();
        let steps: usize = gaps.values().map(Vec::len).sum();
        if !self.json && steps > 0 {
            print(&format!("\n{}\n", table(gaps)));
        }
        let (passed, words) = match result {
            Ok(done) => (true, done),
            Err(broken) => (false, broken.to_string()),
        };
        if self.json {
            let verdict = if passed { "PASS" } else { "FAIL" };
            let line = json!({ "script": self.script, "verdict": verdict, "why": words, "steps": steps, "seconds": seconds, "kept": kept });
            print(&line.to_string());
        } else {
            let kept = kept.map(|folder| format!("; data and logs are kept in {folder}")).unwrap_or_default();
            let verdict = if passed { "PASS" } else { "FAIL" };
            print(&format!("{verdict}: {words}; {steps} steps in {seconds:.1} s{kept}"));
        }
        if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn table(gaps: BTreeMap<String, Vec<Duration>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["UNTIL THE NEXT ACKNOWLEDGEMENT", "TIMES", "MEDIAN", "MAX"]);
    for (kind, mut gaps) in gaps {
        gaps.sort_unstable();
        let ms = |gap: Option<&Duration>| gap.map(|gap| format!("{:.1} ms", milliseconds(*gap))).unwrap_or_default();
        table.add_row([kind, gaps.len().to_string(), ms(gaps.get(gaps.len() / 2)), ms(gaps.last())]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Nobody reading is no reason to stop.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
