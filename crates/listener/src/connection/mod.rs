//! One WebSocket connection to a feed, from the name look-up to the close. Each phase of a connection is a function:
//! `dial`, `authenticate`, `receive`, `close`.

mod authenticate;
mod close;
mod dial;
mod gate;
pub(crate) mod head;
pub(crate) mod http_date;
mod link;
mod low_water;
mod pace;
mod receive;
mod recent;
mod session;
mod socket;
#[cfg(test)]
pub(crate) mod testing;
mod upgrade;

#[cfg(test)]
pub(crate) use self::dial::{Dialled, websocket_config};

pub(crate) use self::{
    authenticate::authenticate,
    close::close,
    dial::{Dial, Dialler},
    link::{Notice, Outlet, Period, SourceLink},
    pace::LEAST_REST,
    receive::receive,
    recent::Recent,
    session::Session,
    socket::Socket,
    upgrade::UpgradeError,
};
