//! What runs came to, for people and for programs.

use chat_testkit::simulation::SECOND;
use chat_testkit::simulation::walk::Outcome;

/// A few lines for people.
pub(crate) fn text(total: &Outcome, runs: u64) -> String {
    let Outcome { handled, commits, sends, acknowledged_sends, deliveries, reads, reads_answered, .. } = total;
    let Outcome { crashes, restarts, views, .. } = total;
    let hours = total.simulated as f64 / SECOND as f64 / 3600.0;
    format!(
        "{runs} runs, {hours:.2} simulated hours, {handled} events, {commits} log entries committed\n\
         clients: {sends} sends, {acknowledged_sends} acknowledged, {deliveries} received, {reads_answered} reads answered; freshness compared {reads} times\n\
         replicas: {crashes} crashes, {restarts} restarts, {views} times one began to serve"
    )
}

/// One line of JSON.
pub(crate) fn json(total: &Outcome, runs: u64, seconds: f64, violation: Option<&str>) -> serde_json::Value {
    serde_json::json!({
        "runs": runs,
        "seconds": seconds,
        "simulated_seconds": total.simulated / SECOND,
        "events": total.handled,
        "commits": total.commits,
        "sends": total.sends,
        "acknowledged_sends": total.acknowledged_sends,
        "deliveries": total.deliveries,
        "reads_answered": total.reads_answered,
        "reads_compared": total.reads,
        "crashes": total.crashes,
        "restarts": total.restarts,
        "views": total.views,
        "violation": violation,
    })
}
