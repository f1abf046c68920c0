//! One connection, from the name look-up to the close. Each state is a function: `dial`, `authorise`,
//! `receive`, `close`.

mod authorise;
mod close;
mod dial;
mod gate;
pub(crate) mod head;
pub(crate) mod http_date;
mod link;
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
    authorise::authorise,
    close::close,
    dial::{Dial, Dialler},
    link::{Link, Notice, Outlet, Period},
    receive::receive,
    recent::Recent,
    session::Session,
    socket::Socket,
    upgrade::UpgradeError,
};
