//! Chance as a value: seeded once, so that the same seed gives the same run.

use std::time::Duration;

/// xoshiro256++ (Blackman and Vigna, 2019): small, quick, and long enough for owners that never meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random([u64; 4]);

impl Random {
    /// A generator from 256 bits of the system's randomness, which must not all be zero.
    pub fn new(seed: [u64; 4]) -> Random {
        Random(if seed == [0; 4] { [1; 4] } else { seed })
    }

    /// A generator from a number, for simulations: its bits are spread by splitmix64.
    pub fn from_number(seed: u64) -> Random {
        let mut state = seed;
        Random::new([(); 4].map(|()| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// 128 bits that tell one taking of a lease from every other.
    pub fn nonce(&mut self) -> u128 {
        (u128::from(self.number()) << 64) | u128::from(self.number())
    }

    /// A fraction of one, one excluded.
    pub fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time below `end`.
    pub fn below(&mut self, end: Duration) -> Duration {
        end.mul_f64(self.fraction())
    }

    /// `time`, made longer or shorter by at most `spread` of itself.
    pub fn about(&mut self, time: Duration, spread: f64) -> Duration {
        time.mul_f64(1.0 + spread * (2.0 * self.fraction() - 1.0))
    }

    /// A generator of its own for a part of the whole.
    pub fn branch(&mut self) -> Random {
        Random::new([(); 4].map(|()| self.number()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let (mut a, mut b) = (Random::from_number(1), Random::from_number(1));
        assert_eq!(a.nonce(), b.nonce());
        assert_ne!(Random::from_number(2).nonce(), a.nonce());
    }

    #[test]
    fn about_stays_within_its_spread() {
        let mut random = Random::from_number(3);
        for _ in 0..1000 {
            let time = random.about(Duration::from_secs(10), 0.1);
            assert!(time >= Duration::from_secs(9) && time <= Duration::from_secs(11), "{time:?}");
        }
    }
}
