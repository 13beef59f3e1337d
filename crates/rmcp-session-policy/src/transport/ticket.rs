//! How a request carries its activity from the manager to the transport.

use rmcp::model::{ClientJsonRpcMessage, ClientRequest, GetExtensions};

use super::session::Session;
use crate::registry::Activity;

/// The activity of a request, in the request's extensions.
///
/// Extensions are cloned freely, an activity is not: a clone of a ticket is spent. Managers stack, so a ticket holds
/// the ticket of the manager around it.
pub(crate) struct Ticket<T> {
    activity: Option<Activity<Session<T>>>,
    outer: Option<Box<Self>>,
}

impl<T> Clone for Ticket<T> {
    fn clone(&self) -> Self {
        Self { activity: None, outer: None }
    }
}

impl<T: Send + 'static> Ticket<T> {
    /// Puts an activity into a request; drops it at once with any other message.
    pub(crate) fn attach(message: &mut ClientJsonRpcMessage, activity: Activity<Session<T>>) {
        if let ClientJsonRpcMessage::Request(request) = message {
            let extensions = request.request.extensions_mut();
            let outer = extensions.remove::<Self>().map(Box::new);
            extensions.insert(Self { activity: Some(activity), outer });
        }
    }

    /// Takes the activity of this session out of a request.
    pub(crate) fn detach(request: &mut ClientRequest, session: &Session<T>) -> Option<Activity<Session<T>>> {
        let extensions = request.extensions_mut();
        let mut ticket = extensions.remove::<Self>()?;
        if ticket.activity.as_ref().is_none_or(|activity| !activity.is_of(session)) {
            extensions.insert(ticket);
            return None;
        }
        if let Some(outer) = ticket.outer.take() {
            extensions.insert(*outer);
        }
        ticket.activity
    }
}
