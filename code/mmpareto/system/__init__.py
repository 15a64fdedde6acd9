"""How a process behaves: errors, files, flags, locks; nothing of machine learning."""
