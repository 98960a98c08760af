//! The Internet checksum (RFC 1071).
//!
//! Partial sums are `u32`s of big-endian 16-bit words, not folded; they can be added to each other.

/// The sum of `data`, as if it began at an even offset; an odd last byte is padded with zero.
pub fn sum(data: &[u8]) -> u32 {
    // Summed in the machine's own byte order, four bytes at a time: the sum of swapped words is the swapped sum.
    let mut chunks = data.chunks_exact(4);
    let mut total: u64 = 0;
    for chunk in &mut chunks {
        total += u64::from(u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut last = [0u8; 4];
        last[..rest.len()].copy_from_slice(rest);
        total += u64::from(u32::from_ne_bytes(last));
    }
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    u32::from(fold(((total >> 16) + (total & 0xffff)) as u32).to_be())
}

/// A partial sum as 16 bits.
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum field's value for a sum of everything else.
pub fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// The sum of the pseudo header of TCP, UDP or ICMPv6: `addresses` are source and destination as in the IP header,
/// `length` is that of the transport header and payload in bytes.
pub fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u32 {
    sum(addresses) + u32::from(protocol) + (length as u32 & 0xffff) + (length as u32 >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(data: &[u8]) -> u16 {
        let mut total: u64 = 0;
        for (at, byte) in data.iter().enumerate() {
            total += u64::from(*byte) << if at % 2 == 0 { 8 } else { 0 };
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    proptest! {
        #[test]
        fn the_sum_is_the_plain_one(data in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(fold(sum(&data)) % 0xffff, plain(&data) % 0xffff);
        }

        #[test]
        fn sums_of_even_parts_add_up(data in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..150) {
            let at = (at * 2).min(data.len() & !1);
            prop_assert_eq!(fold(sum(&data[..at]) + sum(&data[at..])) % 0xffff, plain(&data) % 0xffff);
        }
    }
}
