//! What a link reads of a packet, and the reset it can answer with: IPv4 and TCP, as RFC 791 and
//! RFC 9293 have them.

/// The protocol number of TCP.
const TCP: u8 = 6;
/// Bytes of an IPv4 header without options.
const IP_HEADER: usize = 20;
/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// One direction of a connection: address and port of both ends.
pub(super) type Flow = [([u8; 4], [u8; 2]); 2];

/// A TCP segment as far as a reset needs to know it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Segment {
    source: ([u8; 4], [u8; 2]),
    target: ([u8; 4], [u8; 2]),
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    /// Bytes of payload.
    length: u32,
}

impl Segment {
    /// The segment of an IP packet, if it is one.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let start = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || *packet.get(9)? != TCP {
            return None;
        }
        let tcp = packet.get(start..)?;
        let four = |from: &[u8], at: usize| from.get(at..at + 4)?.try_into().ok();
        let two = |at: usize| tcp.get(at..at + 2)?.try_into().ok();
        let payload = start + usize::from(tcp.get(12)? >> 4) * 4;
        Some(Self {
            source: (four(packet, 12)?, two(0)?),
            target: (four(packet, 16)?, two(2)?),
            sequence: u32::from_be_bytes(four(tcp, 4)?),
            acknowledged: u32::from_be_bytes(four(tcp, 8)?),
            flags: *tcp.get(13)?,
            length: u32::try_from(packet.len().checked_sub(payload)?).ok()?,
        })
    }

    /// To which direction of which connection it belongs.
    pub(super) fn flow(&self) -> Flow {
        [self.source, self.target]
    }

    /// Whether it opens a connection (SYN, or SYN and ACK).
    pub(super) fn opens(&self) -> bool {
        self.flags & SYN != 0
    }

    /// Whether it is a reset, which nobody answers.
    pub(super) fn resets(&self) -> bool {
        self.flags & RST != 0
    }

    /// The reset that whoever sent this would get if nobody listened.
    pub(super) fn refusal(&self) -> Vec<u8> {
        if self.flags & ACK != 0 {
            return reset(self.target, self.source, self.acknowledged, None);
        }
        let counted = u32::from(self.opens()) + u32::from(self.flags & FIN != 0);
        let heard = self.sequence.wrapping_add(self.length).wrapping_add(counted);
        reset(self.target, self.source, 0, Some(heard))
    }

    /// A reset to the receiver, in the name of the sender and in the place of this.
    pub(super) fn replacement(&self) -> Vec<u8> {
        reset(self.source, self.target, self.sequence, Some(self.acknowledged))
    }
}

/// A whole packet with a reset and nothing else.
fn reset(
    (source, source_port): ([u8; 4], [u8; 2]),
    (target, target_port): ([u8; 4], [u8; 2]),
    sequence: u32,
    acknowledged: Option<u32>,
) -> Vec<u8> {
    let flags = if acknowledged.is_some() { RST | ACK } else { RST };
    let mut tcp = [source_port, target_port].concat();
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledged.unwrap_or(0).to_be_bytes());
    // A header of five words, no window, no checksum yet, no urgent data.
    tcp.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    let pseudo = [&source[..], &target, &[0, TCP, 0, 20], &tcp].concat();
    tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());

    // Version 4, a header of five words, 40 bytes in all, not to be cut, 64 hops.
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
    packet.extend([source, target].concat());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(tcp);
    assert_eq!(packet.len(), IP_HEADER + TCP_HEADER, "the length that the header says");
    packet
}

/// The Internet's checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = sum.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{ACK, IP_HEADER, RST, SYN, Segment, TCP, checksum};

    fn segment(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0x10, 0x00, 0x15, 0x38, 0, 0, 0, 100, 0, 0, 0, 200]);
        packet.extend([5 << 4, flags, 0, 9, 0, 0, 0, 0]);
        packet.extend(payload);
        packet
    }

    /// A packet of a connection that comes from this port.
    pub(in crate::rig) fn segment_of(port: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = segment(ACK, payload);
        packet[IP_HEADER + 1] = port;
        packet
    }

    #[test]
    fn a_reset_of_a_connection_is_what_its_sender_waits_for() {
        let asked = Segment::parse(&segment(ACK, b"query")).expect("TCP");
        let answer = asked.refusal();
        let reset = Segment::parse(&answer).expect("TCP");
        assert_eq!((reset.source, reset.target), (asked.target, asked.source));
        assert_eq!((reset.sequence, reset.flags), (200, RST));
        assert_eq!(checksum(&answer[..IP_HEADER]), 0, "the header sums to nothing");
        let pseudo = [&answer[12..20], &[0, TCP, 0, 20], &answer[IP_HEADER..]].concat();
        assert_eq!(checksum(&pseudo), 0, "and so does the segment");
    }

    #[test]
    fn a_knock_is_refused_with_an_acknowledgement() {
        let knock = Segment::parse(&segment(SYN, b"")).expect("TCP");
        assert!(knock.opens() && !knock.resets());
        let reset = Segment::parse(&knock.refusal()).expect("TCP");
        assert_eq!((reset.sequence, reset.acknowledged), (0, 101));
        assert_eq!(reset.flags, RST | ACK);
    }

    #[test]
    fn a_replacement_goes_where_the_segment_went() {
        let said = Segment::parse(&segment(ACK, b"answer")).expect("TCP");
        let reset = Segment::parse(&said.replacement()).expect("TCP");
        assert_eq!((reset.source, reset.target), (said.source, said.target));
        assert_eq!((reset.sequence, reset.acknowledged), (100, 200));
        assert!(reset.resets());
    }

    #[test]
    fn what_is_no_tcp_is_no_segment() {
        let mut packet = segment(ACK, b"");
        packet[9] = 17;
        assert_eq!(Segment::parse(&packet), None);
        assert_eq!(Segment::parse(&segment(ACK, b"")[..30]), None);
        assert_eq!(Segment::parse(&[0x60; 60]), None);
        assert_eq!(Segment::parse(&[]), None);
    }
}
