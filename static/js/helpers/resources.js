// The JSON resources of docs/protocol.md.

export class ResourceError extends Error {
  /** `status` is the HTTP status, or 0 where no answer came. */
  constructor(status, address) {
    super(`${address} answered ${status}`);
    this.status = status;
  }
}

/** The resource at `address`, or null where the server or the network does not give it: what is shown stays. */
export async function fetchUnlessAway(address) {
  try {
    return await fetchResource(address);
  } catch (error) {
    if (error instanceof ResourceError) return null;
    throw error;
  }
}

/** The resource at `address`. Raises ResourceError, and AbortError where `signal` says so. */
export function fetchResource(address, { signal } = {}) {
  return request(address, { signal, headers: { Accept: "application/json" } });
}

/** Sends `body` to `address`; what the server answers. `token` shows that the page is ours. Raises ResourceError. */
export function sendResource(address, { method, body, token }) {
  const headers = { Accept: "application/json", "Content-Type": "application/json", "X-CSRFToken": token };
  return request(address, { method, headers, body: JSON.stringify(body) });
}

async function request(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ResourceError(0, address);
  }
  if (!response.ok) throw new ResourceError(response.status, address);
  return response.json();
}
