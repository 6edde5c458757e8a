//! What nodes count and measure, in the words of Prometheus.

use serde_json::Value;

use super::{Parts, list, word};

/// Labels and value of one series.
type Series = (Vec<(&'static str, String)>, f64);

/// What there is of one kind: its name, type, help, and how it is read from a node's part of the reply.
struct Family(&'static str, &'static str, &'static str, fn(&str, &Value) -> Vec<Series>);

const FAMILIES: &[Family] = &[
    Family("circus_build_info", "gauge", "The agent's version.", |node, part| {
        vec![(vec![("node", node.to_owned()), ("version", word(part, "version").to_owned())], 1.0)]
    }),
    Family("circus_store_up", "gauge", "Whether the lease store is reached.", |node, part| {
        vec![(vec![("node", node.to_owned())], f64::from(u8::from(part["store"]["state"] == "up")))]
    }),
    Family(
        "circus_store_servers",
        "gauge",
        "Of several servers of which most decide: how many there are.",
        |node, part| {
            part["store"]["servers"].as_f64().map(|of| (vec![("node", node.to_owned())], of)).into_iter().collect()
        },
    ),
    Family("circus_store_servers_missed", "gauge", "Those of them that cannot be used.", |node, part| {
        let missed = part["store"]["missed"].as_object().map(|missed| missed.len() as f64);
        missed.map(|count| (vec![("node", node.to_owned())], count)).into_iter().collect()
    }),
    Family(
        "circus_messages_dropped_total",
        "counter",
        "Messages that were not taken: forged, stale, or doubled.",
        |node, part| {
            let count = part["messages_dropped"].as_f64();
            count.map(|count| (vec![("node", node.to_owned())], count)).into_iter().collect()
        },
    ),
    Family("circus_watcher_state", "gauge", "How a watcher is: the state in the label is 1.", |node, part| {
        let state = |watcher: &Value| {
            let mut labels = of_watcher(node, watcher);
            labels.push(("state", word(watcher, "state").to_owned()));
            (labels, 1.0)
        };
        list(part, "watchers").iter().map(state).collect()
    }),
    Family("circus_watcher_processes", "gauge", "Processes that there are.", |node, part| {
        let count = |watcher: &Value| (of_watcher(node, watcher), list(watcher, "processes").len() as f64);
        list(part, "watchers").iter().map(count).collect()
    }),
    Family("circus_watcher_processes_wanted", "gauge", "Processes that are wanted.", |node, part| {
        watchers(node, part, |watcher| watcher["numprocesses"].as_f64())
    }),
    Family(
        "circus_watcher_restarts_total",
        "counter",
        "Processes that were replaced after they ended unasked.",
        |node, part| watchers(node, part, |watcher| watcher["restarts"].as_f64()),
    ),
    Family(
        "circus_cron_runs_total",
        "counter",
        "Times of a schedule by what became of them on this node.",
        |node, part| ["done", "failed", "skipped"].into_iter().flat_map(|result| slots(node, part, result)).collect(),
    ),
    Family(
        "circus_cron_last_done_timestamp_seconds",
        "gauge",
        "The latest time of a schedule whose run on this node ended with exit 0.",
        |node, part| watchers(node, part, |watcher| watcher["cron"]["last_done"].as_f64()),
    ),
    Family(
        "circus_cron_next_timestamp_seconds",
        "gauge",
        "The next time of a schedule, where this node would run it.",
        |node, part| watchers(node, part, |watcher| watcher["cron"]["next"].as_f64()),
    ),
    Family("circus_lease_held", "gauge", "Whether this node may run the singleton.", |node, part| {
        leases(node, part, |lease| Some(f64::from(u8::from(lease["role"] == "holder"))))
    }),
    Family("circus_lease_token", "gauge", "The fencing token, where this node has the lease.", |node, part| {
        leases(node, part, |lease| lease["token"].as_f64())
    }),
    Family("circus_lease_ttl_seconds", "gauge", "How long a grant lasts.", |node, part| {
        leases(node, part, |lease| lease["ttl"].as_f64())
    }),
    Family("circus_lease_taken_total", "counter", "Times this node got the lease.", |node, part| {
        leases(node, part, |lease| lease["counts"]["taken"].as_f64())
    }),
    Family("circus_lease_released_total", "counter", "Times this node gave the lease back.", |node, part| {
        leases(node, part, |lease| lease["counts"]["released"].as_f64())
    }),
    Family("circus_lease_lost_total", "counter", "Times this node lost the lease, by cause.", |node, part| {
        ["taken", "unconfirmed", "expired"].into_iter().flat_map(|cause| lost(node, part, cause)).collect()
    }),
    Family("circus_lease_refreshes_total", "counter", "Refreshes that were confirmed in time.", |node, part| {
        leases(node, part, |lease| lease["counts"]["refreshes"].as_f64())
    }),
    Family("circus_lease_refresh_failures_total", "counter", "Tries to refresh that failed.", |node, part| {
        leases(node, part, |lease| lease["counts"]["refreshes_failed"].as_f64())
    }),
    Family("circus_lease_late_grants_total", "counter", "Grants that came too late to count.", |node, part| {
        leases(node, part, |lease| lease["counts"]["late_grants"].as_f64())
    }),
    Family("circus_lease_latency_seconds", "gauge", "How long the last grant took, at the holder.", |node, part| {
        leases(node, part, |lease| lease["latency"].as_f64())
    }),
    Family("circus_lease_latency_max_seconds", "gauge", "The longest that a grant took.", |node, part| {
        leases(node, part, |lease| lease["counts"]["greatest_latency"].as_f64())
    }),
];

/// Prometheus's text format: each kind once, with the series of all nodes.
pub(super) fn text(parts: &Parts) -> String {
    let mut text = String::new();
    for Family(name, kind, help, read) in FAMILIES {
        let series: Vec<Series> = parts.good.iter().flat_map(|(node, part)| read(node, part)).collect();
        if series.is_empty() {
            continue;
        }
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (labels, value) in series {
            let labels: Vec<String> =
                labels.iter().map(|(name, text)| format!("{name}=\"{}\"", escaped(text))).collect();
            text.push_str(&format!("{name}{{{}}} {value}\n", labels.join(",")));
        }
    }
    text
}

fn of_watcher(node: &str, watcher: &Value) -> Vec<(&'static str, String)> {
    vec![("node", node.to_owned()), ("watcher", word(watcher, "name").to_owned())]
}

fn watchers(node: &str, part: &Value, value: impl Fn(&Value) -> Option<f64>) -> Vec<Series> {
    let series = |watcher: &Value| Some((of_watcher(node, watcher), value(watcher)?));
    list(part, "watchers").iter().filter_map(series).collect()
}

fn leases(node: &str, part: &Value, value: impl Fn(&Value) -> Option<f64>) -> Vec<Series> {
    watchers(node, part, |watcher| watcher["lease"].is_object().then(|| value(&watcher["lease"])).flatten())
}

fn slots(node: &str, part: &Value, result: &'static str) -> Vec<Series> {
    let mut series = watchers(node, part, |watcher| watcher["cron"][result].as_f64());
    series.iter_mut().for_each(|(labels, _)| labels.push(("result", result.to_owned())));
    series
}

fn lost(node: &str, part: &Value, cause: &'static str) -> Vec<Series> {
    let mut series = leases(node, part, |lease| lease["counts"]["lost"][cause].as_f64());
    series.iter_mut().for_each(|(labels, _)| labels.push(("cause", cause.to_owned())));
    series
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}
