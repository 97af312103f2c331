// The addresses of the pages and resources.

const CONVERSATION_PAGE = /^\/c\/([0-9a-f-]{36})$/;

export function pageOf(conversation) {
  return conversation ? `/c/${conversation}` : "/";
}

/** The conversation that a page's path shows; null for a new chat. */
export function conversationOf(path) {
  return CONVERSATION_PAGE.exec(path)?.[1] ?? null;
}

export function conversationResource(conversation) {
  return `/conversations/${conversation}`;
}

export function shareResource(conversation) {
  return `${conversationResource(conversation)}/share`;
}

export function forksResource(conversation) {
  return `${conversationResource(conversation)}/forks`;
}

export function conversationListResource(before) {
  return `${CONVERSATIONS_RESOURCE}?before=${encodeURIComponent(before)}`;
}

export const CONVERSATIONS_RESOURCE = "/conversations";
export const MODELS_RESOURCE = "/models";
