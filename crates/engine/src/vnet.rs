//! `struct virtio_net_hdr` (linux/virtio_net.h), which stands before each packet of a TUN with `IFF_VNET_HDR`: what is
//! left to do of checksums and segmentation. Fields are in the machine's byte order.

/// Its length in bytes.
pub const LEN: usize = 10;
/// In [`Header::flags`]: the checksum is not finished.
pub const NEEDS_CSUM: u8 = 1;
/// In [`Header::gso_type`]: a packet as it is.
pub const GSO_NONE: u8 = 0;
/// A TCP super-packet over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// A TCP super-packet over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// A train of UDP datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// Added to a TCP type: CWR is set, on the first segment alone.
pub const GSO_ECN: u8 = 0x80;

/// The header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// [`NEEDS_CSUM`] or nothing.
    pub flags: u8,
    /// One of the `GSO_` constants.
    pub gso_type: u8,
    /// Bytes of all headers of a super-packet.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the checksum begins to count, from the packet's first byte.
    pub csum_start: u16,
    /// Where it belongs, from `csum_start`.
    pub csum_offset: u16,
}

impl Header {
    /// From the bytes that the kernel wrote.
    pub fn read(bytes: &[u8; LEN]) -> Header {
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Header {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: half(2),
            gso_size: half(4),
            csum_start: half(6),
            csum_offset: half(8),
        }
    }

    /// As the kernel reads it.
    pub fn bytes(&self) -> [u8; LEN] {
        let mut found = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, value) in [(2, self.hdr_len), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)] {
            found[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let header = Header { flags: 1, gso_type: 4, hdr_len: 52, gso_size: 1400, csum_start: 20, csum_offset: 16 };
        assert_eq!(Header::read(&header.bytes()), header);
        assert_eq!(header.bytes()[4..6], 1400u16.to_ne_bytes());
    }
}
