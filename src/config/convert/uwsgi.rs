//! uWSGI's ini → ours.

use super::Original;
use super::page::Page;
use crate::config::Surroundings;

pub(super) fn convert(_: &Original<'_>, _: &Surroundings, _: &mut Page) -> Result<(), String> {
    Err("not yet".into())
}
