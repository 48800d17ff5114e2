//! A workload to load a CPU with: toy RSA keys from random 63-bit primes. For show, not for use.

use std::io::Read;
use std::time::Instant;

fn random() -> u64 {
    let mut bytes = [0; 8];
    let filled = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    if filled.is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        bytes = now.map_or(0, |d| d.as_nanos() as u64).to_be_bytes();
    }
    u64::from_be_bytes(bytes)
}

fn power(mut base: u128, mut exponent: u128, modulus: u128) -> u128 {
    let mut result = 1;
    base %= modulus;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % modulus;
        }
        base = base * base % modulus;
        exponent >>= 1;
    }
    result
}

/// Miller-Rabin with the bases that are exact below 2^64.
pub fn is_prime(n: u64) -> bool {
    const BASES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
    if n < 2 {
        return false;
    }
    if let Some(base) = BASES.iter().find(|b| n.is_multiple_of(**b)) {
        return n == *base;
    }
    let shift = (n - 1).trailing_zeros();
    let odd = u128::from((n - 1) >> shift);
    BASES.iter().all(|base| {
        let mut x = power(u128::from(*base), odd, u128::from(n));
        if x == 1 || x == u128::from(n - 1) {
            return true;
        }
        (1..shift).any(|_| {
            x = x * x % u128::from(n);
            x == u128::from(n - 1)
        })
    })
}

fn prime() -> u64 {
    loop {
        let candidate = (random() >> 1) | (1 << 62) | 1;
        if is_prime(candidate) && !(candidate - 1).is_multiple_of(65537) {
            return candidate;
        }
    }
}

/// Makes `count` keys and tells what it made and how long it took.
pub fn generate(count: usize) -> String {
    let start = Instant::now();
    let mut lines = Vec::new();
    for index in 1..=count {
        let modulus = u128::from(prime()) * u128::from(prime());
        lines.push(format!("key {index}: modulus {modulus:x}, exponent 10001"));
    }
    lines.push(format!("{count} keys in {} ms", start.elapsed().as_millis()));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    #[test]
    fn primes_are_told_from_composites() {
        let primes = [2, 3, 97, 65537, 4611686018427387847];
        assert!(primes.iter().all(|p| super::is_prime(*p)));
        let composites = [0, 1, 9, 65535, 3215031751, 341550071728321];
        assert!(!composites.iter().any(|c| super::is_prime(*c)));
    }
}
