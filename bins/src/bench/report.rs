//! What was measured, for people as a table and for programs as one JSON object per line.

use super::figures::{Times, median, ms, round};
use crate::processes::Broken;
use serde_json::{Map, Value};

/// One measurement. What makes no sense for it is `None`, `null` for programs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line {
    /// What was measured.
    pub name: &'static str,
    /// How many asked at the same time.
    pub clients: Option<usize>,
    /// Answers per second.
    pub per_second: Option<f64>,
    /// Median, 99th percentile and maximum of single operations, in milliseconds.
    pub times_ms: Option<[f64; 3]>,
    /// Processor seconds of all servers together per 1000 answers.
    pub cpu_per_1000: Option<f64>,
    /// What this measurement has beside that; names carry the unit.
    pub more: Vec<(&'static str, f64)>,
    /// What is to be known before the figures are believed.
    pub note: Option<String>,
}

impl Line {
    pub fn new(name: &'static str, clients: usize) -> Line {
        Line { name, clients: Some(clients), ..Line::default() }
    }

    /// With the percentiles of these times; without any, if there are none.
    #[must_use]
    pub fn timed(mut self, times: &Times) -> Line {
        self.times_ms = (times.count() > 0).then(|| [0.5, 0.99, 1.0].map(|part| ms(times.at(part))));
        self
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: f64) -> Line {
        self.more.push((name, value));
        self
    }

    #[must_use]
    pub fn noted(mut self, note: String) -> Line {
        self.note = Some(note);
        self
    }

    /// One of the figures that only this measurement has.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.more.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// For programs; `run` and `args` say which run of which command line it is.
    fn json(&self, run: &Value, args: &str) -> Map<String, Value> {
        let number = |value: Option<f64>| value.map_or(Value::Null, |value| round(value).into());
        let [p50, p99, max] = self.times_ms.map_or([None; 3], |times| times.map(Some));
        let mut object = Map::new();
        object.insert("name".into(), self.name.into());
        object.insert("clients".into(), self.clients.into());
        object.insert("acks_per_s".into(), number(self.per_second));
        object.insert("p50_ms".into(), number(p50));
        object.insert("p99_ms".into(), number(p99));
        object.insert("max_ms".into(), number(max));
        object.insert("server_cpu_s_per_1000".into(), number(self.cpu_per_1000));
        object.extend(self.more.iter().map(|(name, value)| ((*name).to_owned(), number(Some(*value)))));
        object.extend(self.note.iter().map(|note| ("note".to_owned(), note.as_str().into())));
        object.insert("run".into(), run.clone());
        object.insert("args".into(), args.into());
        object
    }

    /// For people.
    fn row(&self, run: &str) -> String {
        let number = |value: Option<f64>, digits: usize| value.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"));
        let [p50, p99, max] = self.times_ms.map_or([None; 3], |times| times.map(Some));
        let clients = self.clients.map_or_else(|| "-".to_owned(), |clients| clients.to_string());
        let mut row = format!(
            "{:<22} {run:>6} {clients:>7} {:>10} {:>10} {:>10} {:>10} {:>10}",
            self.name,
            number(self.per_second, 0),
            number(p50, 3),
            number(p99, 3),
            number(max, 3),
            number(self.cpu_per_1000, 4),
        );
        for (name, value) in &self.more {
            row += &format!("  {name}={}", round(*value));
        }
        if let Some(note) = &self.note {
            row += &format!("  ({note})");
        }
        row
    }

    /// The median of each figure that all of them have.
    fn median_of(lines: &[Line]) -> Option<Line> {
        let first = lines.first()?;
        let of = |figure: &dyn Fn(&Line) -> Option<f64>| median(lines.iter().map(figure).collect::<Option<Vec<_>>>()?);
        let time = |at: usize| of(&|line: &Line| line.times_ms.map(|times| times[at]));
        let times_ms = match (time(0), time(1), time(2)) {
            (Some(p50), Some(p99), Some(max)) => Some([p50, p99, max]),
            _ => None,
        };
        let more = first.more.iter().filter_map(|(name, _)| Some((*name, of(&|line: &Line| line.get(name))?)));
        Some(Line {
            name: first.name,
            clients: first.clients,
            per_second: of(&|line| line.per_second),
            times_ms,
            cpu_per_1000: of(&|line| line.cpu_per_1000),
            more: more.collect(),
            note: lines.iter().find_map(|line| line.note.clone()),
        })
    }
}

/// Where measurements go.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    runs: usize,
    /// The command line that is measured, without what concerns all of them.
    args: String,
    headed: bool,
    counted: Vec<Map<String, Value>>,
}

impl Report {
    /// Each measurement is made `runs` times, at least once.
    pub fn new(json: bool, runs: usize, args: String) -> Report {
        Report { json, runs: runs.max(1), args, headed: false, counted: Vec::new() }
    }

    /// Makes a measurement as often as was asked for, tells of each run, and returns the median.
    pub async fn measure(&mut self, mut once: impl AsyncFnMut() -> Result<Line, Broken>) -> Result<Line, Broken> {
        let lines = self.in_turns(1, async |_| once().await).await?;
        lines.into_iter().next().ok_or_else(nothing)
    }

    /// The same for so many measurements, each of which is made once before any is made again.
    pub async fn in_turns(
        &mut self,
        measurements: usize,
        mut once: impl AsyncFnMut(usize) -> Result<Line, Broken>,
    ) -> Result<Vec<Line>, Broken> {
        let mut lines = vec![Vec::new(); measurements];
        for run in 1..=self.runs {
            for (which, lines) in lines.iter_mut().enumerate() {
                let line = once(which).await?;
                self.tell(&line, &run.into());
                lines.push(line);
            }
        }
        let medians = lines.iter().map(|lines| Line::median_of(lines).ok_or_else(nothing));
        let medians = medians.collect::<Result<Vec<_>, _>>()?;
        for line in &medians {
            if self.runs > 1 {
                self.tell(line, &"median".into());
            }
            self.counted.push(line.json(&self.counts_as(), &self.args));
        }
        Ok(medians)
    }

    /// Tells of what follows from measurements and was not measured itself.
    pub fn follows(&mut self, line: &Line) {
        let run = self.counts_as();
        self.tell(line, &run);
        self.counted.push(line.json(&run, &self.args));
    }

    /// What counts of all that was told: medians where there are several runs.
    pub fn into_lines(self) -> Vec<Map<String, Value>> {
        self.counted
    }

    fn counts_as(&self) -> Value {
        if self.runs > 1 { "median".into() } else { 1.into() }
    }

    fn tell(&mut self, line: &Line, run: &Value) {
        if self.json {
            println!("{}", Value::Object(line.json(run, &self.args)));
            return;
        }
        if !self.headed {
            let (name, run, cpu) = ("measured", "run", "cpu s/1000");
            println!(
                "{name:<22} {run:>6} {:>7} {:>10} {:>10} {:>10} {:>10} {cpu:>10}",
                "clients", "per s", "p50 ms", "p99 ms", "max ms"
            );
            self.headed = true;
        }
        println!("{}", line.row(&run.as_str().map_or_else(|| run.to_string(), str::to_owned)));
    }
}

fn nothing() -> Broken {
    Broken("nothing was measured".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line(per_second: f64, cpu: Option<f64>) -> Line {
        let times = Times::of(vec![Duration::from_millis(per_second as u64)]);
        let line = Line::new("send", 4).timed(&times).with("disk_bytes_per_message", per_second * 2.0);
        Line { per_second: Some(per_second), cpu_per_1000: cpu, ..line }
    }

    #[test]
    fn a_median_is_taken_figure_by_figure_and_of_what_all_have() {
        let lines = [line(10.0, Some(1.0)), line(30.0, None), line(20.0, Some(3.0))];
        let median = Line::median_of(&lines).expect("there are lines");
        assert_eq!((median.per_second, median.cpu_per_1000), (Some(20.0), None));
        assert_eq!(median.times_ms, Some([20.0, 20.0, 20.0]));
        assert_eq!(median.get("disk_bytes_per_message"), Some(40.0));
        assert_eq!(Line::median_of(&[]), None);
    }

    #[test]
    fn programs_find_every_field_and_null_where_it_makes_no_sense() {
        let object = Line { name: "idle", ..Line::default() }.with("cpu_percent", 1.5).json(&1.into(), "idle");
        for name in ["clients", "acks_per_s", "p50_ms", "p99_ms", "max_ms", "server_cpu_s_per_1000"] {
            assert_eq!(object.get(name), Some(&Value::Null), "{name}");
        }
        assert_eq!((&object["name"], &object["cpu_percent"], &object["run"]), (&"idle".into(), &1.5.into(), &1.into()));
    }

    #[tokio::test]
    async fn a_measurement_is_made_as_often_as_asked_for_and_counts_once() {
        let mut report = Report::new(true, 3, "send".into());
        let mut next = 0.0;
        let made = report.measure(async || {
            next += 1.0;
            Ok(line(next, None))
        });
        let median = made.await.expect("it can be measured");
        assert_eq!((median.per_second, next), (Some(2.0), 3.0));
        let lines = report.into_lines();
        assert_eq!((lines.len(), &lines[0]["run"], &lines[0]["acks_per_s"]), (1, &"median".into(), &2.0.into()));
    }

    #[tokio::test]
    async fn several_measurements_are_made_in_turns() {
        let mut report = Report::new(true, 3, "grow".into());
        let mut order = Vec::new();
        let made = report.in_turns(2, async |which| {
            order.push(which);
            Ok(line((10 * which + order.len()) as f64, None))
        });
        let medians = made.await.expect("they can be measured");
        assert_eq!(order, [0, 1, 0, 1, 0, 1]);
        assert_eq!(medians.iter().map(|line| line.per_second).collect::<Vec<_>>(), [Some(3.0), Some(14.0)]);
        assert_eq!(report.into_lines().len(), 2);
    }
}
