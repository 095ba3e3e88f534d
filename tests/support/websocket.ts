// Before version 22 Node has no WebSocket, and supabase-js wants one even where nothing listens.

import WebSocket from 'ws'

if (!('WebSocket' in globalThis)) Object.assign(globalThis, { WebSocket })
