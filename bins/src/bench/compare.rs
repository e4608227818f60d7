//! Whether something got worse since a run that was saved, on the same machine or another, fast or slow today: every figure is compared
//! with that run's, and the outcome with what became of the yardstick meanwhile.

use super::figures::{median, round};
use clap::Args;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The measurement that all others are compared with.
const YARDSTICK: &str = "echo";

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// What an earlier run with --json printed
    #[arg(value_name = "BASE.jsonl")]
    base: PathBuf,
    /// By so many percent a figure must be worse to be called that
    #[arg(long, default_value_t = 15.0, value_name = "PERCENT")]
    threshold: f64,
}

type Line = Map<String, Value>;

/// A saved run: command lines, and what counts of what they printed.
#[derive(Debug, PartialEq)]
pub(super) struct Base {
    groups: Vec<(String, Vec<Line>)>,
}

impl Flags {
    /// The saved run, or what is wrong with it or with the flags.
    pub fn read(&self) -> Result<Base, String> {
        if !(self.threshold > 0.0 && self.threshold.is_finite()) {
            return Err(format!("--threshold {} is not a percentage above 0", self.threshold));
        }
        read(&self.base)
    }

    /// By what part a figure must be worse.
    pub fn part(&self) -> f64 {
        self.threshold / 100.0
    }
}

fn read(path: &Path) -> Result<Base, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let wrong = |number: usize, what: &str| format!("{} line {}: {what}", path.display(), number + 1);
    let mut groups: Vec<(String, Vec<Line>)> = Vec::new();
    for (number, text) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(text).map_err(|_| wrong(number, "not a JSON object"))?;
        let args = line.get("args").and_then(Value::as_str).ok_or_else(|| wrong(number, "has no args"))?.to_owned();
        match groups.iter_mut().find(|(other, _)| *other == args) {
            Some((_, lines)) => lines.push(line),
            None => groups.push((args, vec![line])),
        }
    }
    if groups.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    for (_, lines) in &mut groups {
        // Of several runs only the median counts.
        if lines.iter().any(is_median) {
            lines.retain(is_median);
        }
    }
    Ok(Base { groups })
}

fn is_median(line: &Line) -> bool {
    line.get("run").and_then(Value::as_str) == Some("median")
}

impl Base {
    /// The command lines to run again.
    pub fn lines(&self) -> Vec<String> {
        self.groups.iter().map(|(args, _)| args.clone()).collect()
    }

    /// Compares with what the same command lines printed now, one list for each.
    pub fn compare(&self, now: &[Vec<Line>], part: f64) -> Result<Vec<Comparison>, String> {
        let mut pairs = Vec::new();
        for ((args, before), now) in self.groups.iter().zip(now) {
            let mut left: Vec<&Line> = now.iter().collect();
            for line in before {
                let place = left.iter().position(|other| is_same(line, other));
                let place =
                    place.ok_or_else(|| format!("{args} does not measure the same any more: make a new base"))?;
                pairs.push((line, left.remove(place)));
            }
        }
        let yardstick: Vec<_> = pairs.iter().filter(|(before, _)| is_yardstick(before)).copied().collect();
        let one = |(before, now): &(&Line, &Line)| Comparison::of(before, now, &yardstick, part);
        let compared = pairs.iter().filter(|(before, _)| !is_yardstick(before)).map(one);
        Ok(compared.filter(|comparison| !comparison.ratios.is_empty()).collect())
    }
}

/// Whether two lines measure the same, under the same circumstances.
fn is_same(one: &Line, other: &Line) -> bool {
    let circumstances = ["name", "clients", "handles", "receivers", "asked_per_s", "messages", "accounts", "streams"];
    circumstances.iter().all(|key| one.get(*key) == other.get(*key))
}

fn is_yardstick(line: &Line) -> bool {
    line.get("name").and_then(Value::as_str) == Some(YARDSTICK)
}

/// What is compared of a line.
struct Figure {
    name: &'static str,
    /// By which of the yardstick's figures it is judged; none where the machine's speed does not matter.
    yardstick: Option<&'static str>,
    more_is_better: bool,
    /// Whether it can be called worse: single slow operations come and go.
    counts: bool,
}

const fn figure(name: &'static str, yardstick: Option<&'static str>, counts: bool) -> Figure {
    Figure { name, yardstick, more_is_better: false, counts }
}

const FIGURES: &[Figure] = &[
    Figure { more_is_better: true, ..figure("acks_per_s", Some("acks_per_s"), true) },
    figure("p50_ms", Some("p50_ms"), true),
    figure("p99_ms", Some("p50_ms"), false),
    figure("max_ms", Some("p50_ms"), false),
    figure("server_cpu_s_per_1000", Some("server_cpu_s_per_1000"), true),
    figure("cpu_percent", Some("server_cpu_s_per_1000"), false),
    figure("disk_bytes_per_message", None, true),
    figure("kib_per_stream", None, true),
    figure("resident_mib", None, false),
];

/// One measurement, now and then.
#[derive(Debug, PartialEq)]
pub(super) struct Comparison {
    args: String,
    name: String,
    clients: Option<u64>,
    /// Now divided by then, and that by the yardstick's.
    ratios: Vec<(&'static str, f64)>,
    worse: Vec<&'static str>,
}

impl Comparison {
    fn of(before: &Line, now: &Line, yardstick: &[(&Line, &Line)], part: f64) -> Comparison {
        let word = |key: &str| before.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let clients = before.get("clients").and_then(Value::as_u64);
        let (mut ratios, mut worse) = (Vec::new(), Vec::new());
        // The disk's yardstick is no work of ours.
        let counts = !word("name").starts_with("sync-");
        for figure in FIGURES {
            let Some(ratio) = ratio(before, now, figure.name) else { continue };
            let machine = figure.yardstick.and_then(|name| moved(yardstick, name, clients)).unwrap_or(1.0);
            let ratio = ratio / machine;
            ratios.push((figure.name, ratio));
            let is_worse = if figure.more_is_better { ratio < 1.0 - part } else { ratio > 1.0 + part };
            if counts && figure.counts && is_worse {
                worse.push(figure.name);
            }
        }
        Comparison { args: word("args"), name: word("name"), clients, ratios, worse }
    }

    pub fn is_worse(&self) -> bool {
        !self.worse.is_empty()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("name".into(), "compare".into());
        object.insert("of".into(), self.name.as_str().into());
        object.insert("args".into(), self.args.as_str().into());
        object.insert("clients".into(), self.clients.into());
        object.extend(self.ratios.iter().map(|(name, ratio)| (format!("{name}_ratio"), round(*ratio).into())));
        object.insert("worse".into(), self.worse.clone().into());
        object.into()
    }

    /// For people.
    pub fn row(&self) -> String {
        let clients = self.clients.map_or_else(|| "-".to_owned(), |clients| clients.to_string());
        let mut row = format!("{:<22} {clients:>7}", self.name);
        for (name, ratio) in &self.ratios {
            let mark = if self.worse.contains(name) { " WORSE" } else { "" };
            row += &format!("  {name} x{ratio:.2}{mark}");
        }
        row + &format!("  [{}]", self.args)
    }
}

/// Now divided by then; none where one of them does not say, or then was nothing.
fn ratio(before: &Line, now: &Line, name: &str) -> Option<f64> {
    let number = |line: &Line| line.get(name).and_then(Value::as_f64);
    Some(number(now)? / number(before).filter(|before| *before > 0.0)?)
}

/// What became of a figure of the yardstick: with as many clients, or else in general.
fn moved(yardstick: &[(&Line, &Line)], name: &str, clients: Option<u64>) -> Option<f64> {
    let of = |pairs: &mut dyn Iterator<Item = &(&Line, &Line)>| {
        median(pairs.filter_map(|(before, now)| ratio(before, now, name)).collect())
    };
    let as_many =
        |pair: &&(&Line, &Line)| clients.is_some() && pair.0.get("clients").and_then(Value::as_u64) == clients;
    of(&mut yardstick.iter().filter(as_many)).or_else(|| of(&mut yardstick.iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(name: &str, clients: u64, acks: f64, p50: f64) -> Line {
        let value = json!({"name": name, "clients": clients, "acks_per_s": acks, "p50_ms": p50, "p99_ms": null,
            "args": format!("{name} --secs 1"), "run": 1});
        value.as_object().cloned().expect("it is an object")
    }

    fn base(lines: &[Line]) -> Base {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("base.jsonl");
        let text: String = lines.iter().map(|line| format!("{}\n", Value::Object(line.clone()))).collect();
        std::fs::write(&path, text).expect("written");
        read(&path).expect("it is sound")
    }

    #[test]
    fn a_slower_machine_is_no_reason() {
        let base = base(&[line("echo", 1, 1000.0, 1.0), line("send", 1, 100.0, 10.0)]);
        assert_eq!(base.lines(), ["echo --secs 1", "send --secs 1"]);
        let now = [vec![line("echo", 1, 500.0, 2.0)], vec![line("send", 1, 50.0, 20.0)]];
        let compared = base.compare(&now, 0.15).expect("the same is measured");
        assert_eq!(compared.len(), 1);
        assert_eq!(compared[0].ratios, [("acks_per_s", 1.0), ("p50_ms", 1.0)]);
        assert!(!compared[0].is_worse());
    }

    #[test]
    fn what_got_worse_on_the_same_machine_is_flagged() {
        let base = base(&[line("echo", 1, 1000.0, 1.0), line("send", 1, 100.0, 10.0)]);
        let now = |acks| [vec![line("echo", 1, 1000.0, 1.0)], vec![line("send", 1, acks, 10.0)]];
        assert!(!base.compare(&now(86.0), 0.15).expect("the same is measured")[0].is_worse());
        let worse = base.compare(&now(84.0), 0.15).expect("the same is measured");
        assert_eq!(worse[0].worse, ["acks_per_s"]);
        assert!(worse[0].row().contains("acks_per_s x0.84 WORSE"), "{}", worse[0].row());
    }

    #[test]
    fn of_several_runs_the_median_counts_and_the_yardstick_with_as_many_clients() {
        let mut median = line("send", 16, 100.0, 10.0);
        median.insert("run".into(), "median".into());
        let lines = [line("echo", 1, 10.0, 1.0), line("echo", 16, 20.0, 1.0), line("send", 16, 1.0, 1.0), median];
        let base = base(&lines);
        let now = [vec![line("echo", 1, 10.0, 1.0), line("echo", 16, 10.0, 1.0)], vec![line("send", 16, 100.0, 10.0)]];
        let compared = base.compare(&now, 0.15).expect("the same is measured");
        assert_eq!(compared[0].ratios, [("acks_per_s", 2.0), ("p50_ms", 1.0)]);
    }

    #[test]
    fn a_base_may_hold_less_than_is_measured() {
        let base = base(&[line("send", 16, 100.0, 10.0)]);
        let now = [vec![line("send", 1, 1.0, 1.0), line("send", 16, 100.0, 10.0)]];
        assert_eq!(base.compare(&now, 0.15).expect("it is there").len(), 1);
    }

    #[test]
    fn what_is_not_the_same_any_more_is_not_compared() {
        let base = base(&[line("send", 1, 100.0, 10.0)]);
        let refused = base.compare(&[vec![line("send", 2, 100.0, 10.0)]], 0.15).expect_err("other clients");
        assert!(refused.contains("send --secs 1"), "{refused}");
    }

    #[test]
    fn a_file_that_is_no_run_is_refused_in_words() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("base.jsonl");
        for (text, names) in [("", "is empty"), ("{}\n", "line 1: has no args"), ("\nx\n", "line 2: not a JSON object")]
        {
            std::fs::write(&path, text).expect("written");
            let refused = read(&path).expect_err("it is wrong");
            assert!(refused.contains(names), "{refused}");
        }
        assert!(read(&dir.path().join("nothing")).is_err());
    }
}
