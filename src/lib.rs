//! circus-agent.

pub mod model;

pub mod wire;

pub mod cluster;
pub mod config;
pub mod control;
pub mod host;
pub mod view;

pub mod systemd;

pub mod agent;
pub mod client;

pub mod cli;
