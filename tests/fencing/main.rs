//! The recipes of docs/fencing.md, cut out of the page and tried where they belong.

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/redis.rs"]
mod redis_server;

mod celery;
mod sql;

use redis_server::RedisServer;

/// The code of this language that stands below a heading, each block by itself.
fn recipes(heading: &str, language: &str) -> Vec<&'static str> {
    let page = include_str!("../../docs/fencing.md");
    let (heading, fence) = (format!("\n## {heading}\n"), format!("\n```{language}\n"));
    let (_, below) = page.split_once(&heading).expect("the heading");
    let section = below.split("\n## ").next().unwrap_or_default();
    section.split(&fence).skip(1).map(|rest| rest.split_once("\n```").expect("its end").0).collect()
}

#[test]
fn in_redis_a_stale_token_writes_nothing() {
    let redis = RedisServer::start();
    let [script] = recipes("Redis", "lua")[..] else { panic!("one script") };
    let set =
        |token: &str, value: &str| redis.number(&["EVAL", script, "2", "{report}", "{report}:fence", token, value]);
    let is = |value: &str| assert_eq!(redis.text(&["GET", "{report}"]).as_deref(), Some(value));

    assert_eq!(set("1763805600000", "first"), 1);
    assert_eq!(set("1763805600000", "again"), 1);
    is("again");
    // Longer, and so smaller as a text.
    assert_eq!(set("11763805600000", "next"), 1);
    assert_eq!(set("1763805600001", "stale"), 0);
    is("next");
    // The largest stays the largest after one was refused.
    assert_eq!(set("1763805600002", "stale"), 0);
    assert_eq!(set("11763805600000", "on"), 1);
    is("on");
}
