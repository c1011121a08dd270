"""Pages for people at the server's address: they look, approve, reject and roll back; off unless the config says so.

Rules of the room:
1. The browser never sees a token. A person logs in by authorization code with PKCE; the server keeps the token in
   memory and gives the browser a cookie that says nothing, for this server's own pages only (``sessions.py``,
   ``signin.py``).
2. A session may do what the scopes of its token say, on the same routes as a token of its own would (``routes.py``).
   It changes something only for a request that the page itself sent: own origin, own header.
3. Pages are files that never change while the server runs: no template, nothing that came from anybody in HTML. Scripts
   are our own files and nothing else; the policy that says so forbids every other source, the network included.
4. What an approver decides is signed in the browser, with a key that never leaves it. A page is what the server sends:
   whoever does not trust the server signs with ``moonflower model approve`` instead.
"""
