//! The delay before a retry, drawn for each answer. Clients add no jitter of their own to a pushback,
//! so callers that are refused together would come back together.

use std::time::Duration;

/// 60 s: the longest delay. Clients wait as long as they are told, so no answer of EC2's can send them away
/// for hours.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// 1 s: the shortest delay. EC2 may name none at all, and a draw needs a width.
const MIN_DELAY: Duration = Duration::from_secs(1);

/// The shortest and the longest delay that [`draw`] returns.
pub(super) fn bounds(delay: Duration) -> (Duration, Duration) {
    let shortest = delay.clamp(MIN_DELAY, MAX_DELAY);
    (shortest, (shortest * 2).min(MAX_DELAY))
}

/// A delay between `delay` and twice of it, at most a minute, in whole milliseconds, as a pushback is.
pub(super) fn draw(delay: Duration) -> Duration {
    let (shortest, longest) = bounds(delay);
    Duration::from_millis(fastrand::u64(millis(shortest)..=millis(longest)))
}

/// At most [`MAX_DELAY`], which fits.
fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_drawn_between_itself_and_twice_itself_and_at_most_a_minute() {
        for (delay, shortest, longest) in [
            (Duration::ZERO, 1_000, 2_000),
            (Duration::from_secs(1), 1_000, 2_000),
            (Duration::from_secs(30), 30_000, 60_000),
            (Duration::from_secs(40), 40_000, 60_000),
            (Duration::from_secs(59), 59_000, 60_000),
            (Duration::from_secs(60), 60_000, 60_000),
            (Duration::from_secs(3_600), 60_000, 60_000),
            (Duration::MAX, 60_000, 60_000),
        ] {
            for _ in 0..1_000 {
                let drawn = draw(delay).as_millis();
                assert!((shortest..=longest).contains(&drawn), "{delay:?}: {drawn} ms");
            }
        }
    }

    #[test]
    fn ten_thousand_callers_refused_together_do_not_come_back_together() {
        let mut per_tenth = [0; 10];
        for _ in 0..10_000 {
            let late = draw(Duration::from_secs(10)).as_millis() - 10_000;
            per_tenth[usize::try_from(late / 1_000).expect("small").min(9)] += 1;
        }
        // Evenly spread, each second has 1,000 of them, with a standard deviation of 30.
        for callers in per_tenth {
            assert!((800..=1_200).contains(&callers), "{per_tenth:?}");
        }
    }
}
