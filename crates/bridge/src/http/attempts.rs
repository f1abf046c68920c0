//! The limit of wrong passwords, for each client address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;

/// The number of wrong passwords in a period after which a client is blocked: more than a person mistypes, and far too few to
/// guess a password.
const MAX_WRONG: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);
/// The largest number of clients whose wrong passwords are counted.
const MAX_CLIENTS: usize = 1024;

/// The wrong passwords of the last period.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    clients: HashMap<IpAddr, Wrong>,
}

#[derive(Clone, Copy, Debug)]
struct Wrong {
    count: u32,
    began: Instant,
}

impl Attempts {
    /// Returns the time for which every password of this client is refused, also the right one: otherwise the limit
    /// would not stop a search.
    pub(super) fn blocked_for(&self, client: IpAddr) -> Option<Duration> {
        let wrong = self.clients.get(&network(client))?;
        let left = PERIOD.checked_sub(wrong.began.elapsed())?;
        (wrong.count >= MAX_WRONG && !left.is_zero()).then_some(left)
    }

    /// Counts a wrong password. Returns whether the client is blocked from now on.
    pub(super) fn note_wrong(&mut self, client: IpAddr) -> bool {
        let client = network(client);
        if !self.clients.contains_key(&client) && self.clients.len() >= MAX_CLIENTS {
            self.make_room();
        }
        let new = Wrong {
            count: 0,
            began: Instant::now(),
        };
        let wrong = self.clients.entry(client).or_insert(new);
        if wrong.began.elapsed() >= PERIOD {
            *wrong = new;
        }
        wrong.count += 1;
        wrong.count == MAX_WRONG
    }

    fn make_room(&mut self) {
        self.clients.retain(|_, wrong| wrong.began.elapsed() < PERIOD);
        if self.clients.len() < MAX_CLIENTS {
            return;
        }
        let oldest = self.clients.iter().min_by_key(|(_, wrong)| wrong.began);
        if let Some(client) = oldest.map(|(client, _)| *client) {
            self.clients.remove(&client);
        }
    }
}

/// Returns the address that identifies a client: an IPv4 address, or the /64 network of an IPv6 address, in which a single
/// machine may choose its address.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn client(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn ten_wrong_passwords_block_a_client_for_a_minute() {
        let mut attempts = Attempts::default();
        let (one, other) = (client("10.0.0.1"), client("10.0.0.2"));
        for _ in 0..MAX_WRONG - 1 {
            assert!(!attempts.note_wrong(one));
            assert_eq!(attempts.blocked_for(one), None);
        }
        advance(Duration::from_secs(20)).await;
        assert!(attempts.note_wrong(one));
        assert_eq!(attempts.blocked_for(one), Some(Duration::from_secs(40)));
        assert_eq!(
            attempts.blocked_for(client("::ffff:10.0.0.1")),
            Some(Duration::from_secs(40))
        );
        assert_eq!(attempts.blocked_for(other), None);
        advance(Duration::from_secs(40)).await;
        assert_eq!(attempts.blocked_for(one), None);
        assert!(!attempts.note_wrong(one));
        assert_eq!(attempts.blocked_for(one), None);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_an_ipv6_network_are_one_client() {
        let mut attempts = Attempts::default();
        for number in 0..MAX_WRONG {
            attempts.note_wrong(client(&format!("2001:db8:0:1::{number:x}")));
        }
        assert!(attempts.blocked_for(client("2001:db8:0:1:ffff::")).is_some());
        assert!(attempts.blocked_for(client("2001:db8:0:2::")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn number_of_counted_clients_is_bounded() {
        let mut attempts = Attempts::default();
        for number in 0..3 * MAX_CLIENTS {
            attempts.note_wrong(IpAddr::V4(u32::try_from(number).unwrap().into()));
        }
        assert_eq!(attempts.clients.len(), MAX_CLIENTS);
    }
}
