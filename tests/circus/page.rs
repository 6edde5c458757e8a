//! What docs/circus-compatibility.md says of differences, held against those that were found.

use std::collections::BTreeSet;
use std::path::Path;

/// Where a difference is: in what, and in which field of it.
pub(crate) type Place = (String, String);

/// The rows under a heading of the page: what their first cell names, by what their second does.
fn rows(heading: &str) -> BTreeSet<Place> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/circus-compatibility.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, section) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no {heading}"));
    let lines = section.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `"));
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    lines
        .flat_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            assert_eq!(cells.len(), 4, "{line}");
            let fields = quoted(cells[1]);
            quoted(cells[0])
                .into_iter()
                .flat_map(move |what| fields.clone().into_iter().map(move |field| (what.clone(), field)))
        })
        .collect()
}

/// Whether a row's field is this one, or holds it.
fn covers(row: &Place, found: &Place) -> bool {
    let rest = found.1.strip_prefix(&row.1);
    row.0 == found.0 && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The differences are those that the page has, all of them and no other.
#[track_caller]
pub(crate) fn are_those_of(heading: &str, found: &[(Place, String)]) {
    let rows = rows(heading);
    let untold = found.iter().filter(|(place, _)| !rows.iter().any(|row| covers(row, place)));
    let untold: Vec<String> = untold.map(|((what, field), how)| format!("`{what}` | `{field}`: {how}")).collect();
    let gone = rows.iter().filter(|row| !found.iter().any(|(place, _)| covers(row, place)));
    let gone: Vec<String> = gone.map(|(what, field)| format!("`{what}` | `{field}`")).collect();
    assert!(
        untold.is_empty() && gone.is_empty(),
        "differences that the page does not name:\n{}\nand those that it names and that are none:\n{}",
        untold.join("\n"),
        gone.join("\n")
    );
}
