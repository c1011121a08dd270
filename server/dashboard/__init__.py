"""Pages for people at the server's address, to look, approve, reject and roll back. Off unless the config asks for it.

Rules of this package:
1. The browser never sees a token. A person logs in by authorization code with PKCE; the server keeps the token in
   memory and gives the browser a random cookie, for this server's own pages only (``sessions.py``,
   ``signin.py``).
2. A session may do what the scopes of its token allow, on the same routes as the token itself (``routes.py``).
   It changes something only for a request that the page itself sent: own origin, own header.
3. Pages are files that never change while the server runs. There are no templates, and no input from anyone is put into
   HTML. Scripts are our own files only; the content security policy forbids every other source.
4. An approver's decision is signed in the browser, with a key that never leaves it. But the page comes from the server:
   an approver who does not trust the server signs with ``moonflower model approve`` instead.
"""
