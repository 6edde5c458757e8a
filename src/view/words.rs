//! Spans, shares and dates as people read them.

use serde_json::Value;

/// `0.4 s`, `12 s`, `4m 10s`, `6h 02m`, `3d 04h`.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{:.1} s", seconds.max(0.0)),
        10..60 => format!("{whole} s"),
        60..3_600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h {:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// A text that comes from elsewhere, on one line: it may not move the cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// As [`span`], of a number that may be missing.
pub(super) fn maybe_span(seconds: &Value) -> String {
    seconds.as_f64().map_or_else(|| "-".into(), span)
}

/// `2.1 ms` below a second.
pub(super) fn latency(seconds: &Value) -> String {
    match seconds.as_f64() {
        None => "-".into(),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1_000.0),
        Some(seconds) => span(seconds),
    }
}

/// A number of bytes: `512`, `8.5M`, `256M`, in powers of 1024 and with five characters at most.
pub(super) fn size(bytes: f64) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    let (mut size, mut unit) = (bytes.max(0.0), 0);
    // What would round up to a fourth digit is one of the next.
    while size >= 999.5 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    // Below ten a unit says too little by itself.
    let digits = usize::from(unit > 0 && size < 9.95);
    format!("{size:.digits$}{}", UNITS[unit])
}

/// What is left of a lease: `4.1/5.0s`.
pub(super) fn left(lease: &Value) -> String {
    match (lease["left"].as_f64(), lease["ttl"].as_f64()) {
        (Some(left), Some(ttl)) => format!("{left:.1}/{ttl:.1}s"),
        _ => "-".into(),
    }
}

/// A time that was measured to the millisecond: `21 ms`, `0.21 s`, `5.30 s`, `4m 10s`.
pub(super) fn measured(seconds: f64) -> String {
    match seconds {
        ..0.1 => format!("{:.0} ms", seconds.max(0.0) * 1_000.0),
        ..60.0 => format!("{seconds:.2} s"),
        _ => span(seconds),
    }
}

/// As [`date`], to the second: `2026-11-18 17:40:02Z`.
pub(super) fn date_and_second(seconds: f64) -> String {
    format!("{}:{:02}Z", date(seconds).trim_end_matches('Z'), seconds.max(0.0) as u64 % 60)
}

/// A moment of the Unix epoch in UTC: `2026-11-18 17:40Z`.
pub(super) fn date(seconds: f64) -> String {
    let minutes = (seconds.max(0.0) / 60.0) as i64;
    let (year, month, day) = crate::view::civil(minutes.div_euclid(1_440));
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}Z", minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_two_digits_at_least_and_three_at_most() {
        let sizes = [0.0, 999.0, 999.5, 1023.0, 1024.0, 10_188.0, 10_240.0, 1_048_575.0, 8_912_896.0, 268_435_456.0];
        assert_eq!(sizes.map(size), ["0", "999", "1.0K", "1.0K", "1.0K", "9.9K", "10K", "1.0M", "8.5M", "256M"]);
        assert_eq!([-1.0, f64::NAN, 1.5e18].map(size), ["0", "0", "1.3E"]);
    }
}
