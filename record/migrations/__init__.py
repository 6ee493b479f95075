"""Alembic's migrations of the store's tables; `record.store.Store.open` applies them."""
